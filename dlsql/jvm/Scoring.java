package dlsql;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.catalyst.expressions.*;
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan;
import org.apache.spark.sql.catalyst.rules.Rule;
import org.apache.spark.sql.catalyst.trees.TreeNode;
import org.apache.spark.sql.catalyst.util.UnsafeRowUtils;
import org.apache.spark.sql.execution.FileSourceScanExec;
import org.apache.spark.sql.execution.FilterExec;
import org.apache.spark.sql.execution.ProjectExec;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.python.ArrowEvalPythonExec;
import scala.collection.immutable.Seq;

/** How Spark plans predictions: packed where the columns are read, run once a row, and only for the rows that need them. */
public class Scoring {

  public static class Planning extends scala.runtime.AbstractFunction1 {
    public Object apply(Object session) {
      return new Columns();
    }
  }

  public static class Guarding extends scala.runtime.AbstractFunction1 {
    public Object apply(Object session) {
      return new Guard();
    }
  }

  /**
   * Chains of projections, filters and predictions as Spark plans them are replaced by better ones.
   *
   * The packed inputs become a column of a projection below the operator that runs Python functions, which queues its whole input rows for
   * as long as Python computes: without it all columns that are packed would wait there, too. And a prediction that is made below, for a
   * filter, is carried up to where it is wanted again: the optimizer pushes filters below projections, and makes two of it.
   *
   * That happens to the physical plan, since adaptive execution looks for what it has run by the nodes of the logical one.
   */
  public static class Columns extends org.apache.spark.sql.execution.ColumnarRule {
    public Rule preColumnarTransitions() {
      return new Plans();
    }

    public Rule postColumnarTransitions() {
      return new OverColumns();
    }
  }

  /** Where it is known which scans give columns, projections that pack take them as they are. */
  public static class OverColumns extends Rule {
    public String ruleName() {
      return "dlsql.OverColumns";
    }

    public TreeNode apply(TreeNode plan) {
      return ((SparkPlan) plan).transformDown(new Projections());
    }
  }

  public static class Projections extends scala.runtime.AbstractPartialFunction {
    public boolean isDefinedAt(Object plan) {
      return plan instanceof ProjectExec && !(plan instanceof PackColumns);
    }

    public Object applyOrElse(Object plan, scala.Function1 otherwise) {
      return isDefinedAt(plan) ? PackColumns.of((ProjectExec) plan) : otherwise.apply(plan);
    }
  }

  public static class Plans extends Rule {
    public String ruleName() {
      return "dlsql.Plans";
    }

    public TreeNode apply(TreeNode plan) {
      return ((SparkPlan) plan).transformDown(new Chains());
    }
  }

  public static class Chains extends scala.runtime.AbstractPartialFunction {
    public boolean isDefinedAt(Object plan) {
      return plan instanceof ProjectExec || plan instanceof FilterExec || plan instanceof ArrowEvalPythonExec;
    }

    public Object applyOrElse(Object plan, scala.Function1 otherwise) {
      return isDefinedAt(plan) ? improved((SparkPlan) plan) : otherwise.apply(plan);
    }
  }

  static SparkPlan improved(SparkPlan plan) {
    List chain = new ArrayList();  // from the top
    SparkPlan below = plan;
    boolean predicts = false;
    int highest = -1;  // of the predictions
    while (below instanceof ProjectExec || below instanceof FilterExec || below instanceof ArrowEvalPythonExec && !(below instanceof Predict)) {
      if (below instanceof ArrowEvalPythonExec) predicts |= predicts((ArrowEvalPythonExec) below);
      if (below instanceof ArrowEvalPythonExec && highest < 0) highest = chain.size();
      chain.add(below);
      below = (SparkPlan) below.children().apply(0);
    }
    if (!predicts) return plan;
    List needed = new ArrayList();  // above each of the chain: an AttributeSet
    AttributeSet above = AttributeSet$.MODULE$.apply(plan.output());
    for (int i = 0; i < chain.size(); i++) {
      needed.add(above);
      SparkPlan node = (SparkPlan) chain.get(i);
      above = node instanceof ProjectExec ? node.references() : above.$plus$plus(node.references());
    }
    List made = new ArrayList();  // predictions: {function, attribute}
    Fixed fixed = new Fixed();
    if (below instanceof FileSourceScanExec) for (Object one : Lists.list(((FileSourceScanExec) below).partitionFilters())) fixed.add((Expression) one);
    for (int i = chain.size() - 1; i >= 0; i--) {
      SparkPlan node = (SparkPlan) chain.get(i);
      if (node instanceof FilterExec) fixed.add(((FilterExec) node).condition());
      if (node instanceof ArrowEvalPythonExec) below = predicted((ArrowEvalPythonExec) node, below, (AttributeSet) needed.get(i), made, fixed);
      else if (node instanceof FilterExec) below = new FilterExec(((FilterExec) node).condition(), below);
      else below = i > highest ? carrying((ProjectExec) node, below, made) : new ProjectExec(((ProjectExec) node).projectList(), below);
    }
    return Numbers.of(below.output().equals(plan.output()) ? below : new ProjectExec(plan.output(), below));
  }

  private static boolean predicts(ArrowEvalPythonExec eval) {
    for (Object udf : Lists.list(eval.udfs())) if (predicts((PythonUDF) udf)) return true;
    return false;
  }

  private static boolean predicts(PythonUDF udf) {
    return !udf.children().isEmpty() && udf.children().apply(0) instanceof Inputs;
  }

  /** The predictions of an operator that are not made yet; those that are under their names here, too. */
  private static SparkPlan predicted(ArrowEvalPythonExec eval, SparkPlan child, AttributeSet needed, List made, Fixed fixed) {
    Calls others = new Calls(), asTheyAre = new Calls(), packing = new Calls();
    List again = new ArrayList(), inputs = new ArrayList();
    for (Object place : generalFirst(eval)) {
      PythonUDF udf = (PythonUDF) eval.udfs().apply(((Integer) place).intValue());
      Attribute result = (Attribute) eval.resultAttrs().apply(((Integer) place).intValue());
      Attribute known = predicts(udf) ? known(udf, made, fixed) : null;
      if (known != null) {
        again.add(alias(known, result.name(), result.exprId()));
        continue;
      }
      if (predicts(udf)) made.add(new Object[] {udf, result});
      if (!predicts(udf)) {
        others.add(udf, result);
      } else if (udf.children().apply(0) instanceof Encode) {
        List arguments = new ArrayList();
        arguments.add(packed((Encode) udf.children().apply(0), inputs));
        packing.add((PythonUDF) udf.withNewChildren(Lists.seq(arguments)), result);
      } else {
        asTheyAre.add(udf, result);
      }
    }
    SparkPlan plan = others.udfs.isEmpty() ? child : new ArrowEvalPythonExec(Lists.seq(others.udfs), Lists.seq(others.results), child, eval.evalType());
    if (!asTheyAre.udfs.isEmpty()) plan = new Unpacked(Lists.seq(asTheyAre.udfs), Lists.seq(asTheyAre.results), plan, eval.evalType());
    if (!packing.udfs.isEmpty()) {
      for (Object one : made) {
        if (!packing.results.contains(((Object[]) one)[1])) needed = needed.$plus((Attribute) ((Object[]) one)[1]);
      }
      List columns = new ArrayList();
      for (Object column : Lists.list(plan.output())) if (needed.contains((NamedExpression) column)) columns.add(column);
      columns.addAll(inputs);
      plan = new Predict(Lists.seq(packing.udfs), Lists.seq(packing.results), new ProjectExec(Lists.seq(columns), plan), eval.evalType(),
          Collections.nCopies(packing.udfs.size(), null), most(inputs));
    }
    if (again.isEmpty()) return plan;
    List all = Lists.list(plan.output());
    all.addAll(again);
    return new ProjectExec(Lists.seq(all), plan);
  }

  /** Calls of functions with their results, for one of Spark's operators. */
  private static class Calls {
    final List udfs = new ArrayList();
    final List results = new ArrayList();

    void add(PythonUDF udf, Attribute result) {
      udfs.add(udf);
      results.add(result);
    }
  }

  private static List generalFirst(ArrowEvalPythonExec eval) {
    List all = new ArrayList(), guarded = new ArrayList();
    for (int i = 0; i < eval.udfs().size(); i++) {
      PythonUDF udf = (PythonUDF) eval.udfs().apply(i);
      (isGuarded(udf) ? guarded : all).add(Integer.valueOf(i));
    }
    all.addAll(guarded);
    return all;
  }

  /** The result of a prediction that is made; one for all rows serves one for some of them. */
  private static Attribute known(PythonUDF udf, List made, Fixed fixed) {
    Expression here = fixed.in(udf), everywhere = fixed.in(unguarded(udf));
    for (Object one : made) {
      Expression known = fixed.in((PythonUDF) ((Object[]) one)[0]);
      if (here.semanticEquals(known) || everywhere.semanticEquals(known)) return (Attribute) ((Object[]) one)[1];
    }
    return null;
  }

  /**
   * Columns that a filter compares with a constant. In a filter's predictions the optimizer puts the constant in the column's place; they
   * are told from others with the constants in.
   */
  public static class Fixed extends scala.runtime.AbstractPartialFunction {
    private final Map values = new HashMap();  // by the ids of columns

    void add(Expression condition) {
      if (condition instanceof And) {
        add(((And) condition).left());
        add(((And) condition).right());
      } else if (condition instanceof EqualTo) {
        Expression left = ((EqualTo) condition).left(), right = ((EqualTo) condition).right();
        put(left, right);
        put(right, left);
      }
    }

    private void put(Expression column, Expression value) {
      boolean same = column instanceof Attribute && value instanceof Literal && UnsafeRowUtils.isBinaryStable(column.dataType());
      if (same) values.put(((Attribute) column).exprId(), value);
    }

    Expression in(PythonUDF udf) {
      return values.isEmpty() ? udf : (Expression) udf.transformUp(this);
    }

    public boolean isDefinedAt(Object e) {
      return e instanceof Attribute && values.containsKey(((Attribute) e).exprId());
    }

    public Object applyOrElse(Object e, scala.Function1 otherwise) {
      return isDefinedAt(e) ? values.get(((Attribute) e).exprId()) : otherwise.apply(e);
    }
  }

  private static PythonUDF unguarded(PythonUDF udf) {
    List arguments = new ArrayList();
    for (Object one : Lists.list(udf.children())) {
      arguments.add(one instanceof Inputs ? ((Inputs) one).guarded(Wanted.TRUE) : isGuarded(udf) ? Wanted.everywhere((Expression) one) : one);
    }
    return (PythonUDF) udf.withNewChildren(Lists.seq(arguments));
  }

  /** The column that holds packed inputs: one for equal ones. */
  private static Attribute packed(Encode inputs, List packed) {
    for (Object one : packed) {
      if (((Alias) one).child().semanticEquals(inputs)) return ((Alias) one).toAttribute();
    }
    Alias alias = alias(inputs, "features", NamedExpression.newExprId());
    packed.add(alias);
    return alias.toAttribute();
  }

  /** Rows that may travel together. */
  private static int most(List packed) {
    int most = Integer.MAX_VALUE;
    for (Object one : packed) most = Math.min(most, ((Encode) ((Alias) one).child()).encoder().most());
    return most;
  }

  private static SparkPlan carrying(ProjectExec node, SparkPlan child, List made) {
    List columns = Lists.list(node.projectList());
    for (Object one : made) {
      Attribute result = (Attribute) ((Object[]) one)[1];
      if (child.outputSet().contains(result) && !node.outputSet().contains(result)) columns.add(result);
    }
    return new ProjectExec(Lists.seq(columns), child);
  }

  private static Alias alias(Expression e, String name, ExprId id) {
    Seq none = Lists.seq(new ArrayList());
    return new Alias(e, name, id, none, scala.Option.empty(), none);
  }

  /**
   * What stands in a branch of CASE or IF is predicted for the rows that come there. Spark computes Python functions before the expression
   * that they stand in, for all rows, so the condition goes into the packed inputs, which are NULL where there is nothing to score.
   */
  public static class Guard extends Rule {
    public String ruleName() {
      return "dlsql.Guard";
    }

    public TreeNode apply(TreeNode plan) {
      return ((LogicalPlan) plan).transformAllExpressions(new Branches(Wanted.TRUE));
    }
  }

  public static class Branches extends scala.runtime.AbstractPartialFunction {
    private final Expression outer;  // the condition that the whole stands under

    Branches(Expression outer) {
      this.outer = outer;
    }

    public boolean isDefinedAt(Object e) {
      return e instanceof CaseWhen || e instanceof If;
    }

    public Object applyOrElse(Object given, scala.Function1 otherwise) {
      if (given instanceof If) {
        If e = (If) given;
        Expression predicate = guarded(e.predicate(), outer), here = holds(predicate);
        return new If(predicate, guarded(e.trueValue(), and(outer, here)), guarded(e.falseValue(), and(outer, new Not(here))));
      }
      if (!(given instanceof CaseWhen)) return otherwise.apply(given);
      CaseWhen e = (CaseWhen) given;
      List branches = new ArrayList();
      Expression before = outer;  // none of the branches before
      for (Object one : Lists.list(e.branches())) {
        Expression condition = guarded((Expression) ((scala.Tuple2) one)._1(), before), here = holds(condition);
        branches.add(new scala.Tuple2(condition, guarded((Expression) ((scala.Tuple2) one)._2(), and(before, here))));
        before = and(before, new Not(here));
      }
      Object rest = e.elseValue().isDefined() ? scala.Option.apply(guarded((Expression) e.elseValue().get(), before)) : scala.Option.empty();
      return new CaseWhen(Lists.seq(branches), (scala.Option) rest);
    }
  }

  private static Expression and(Expression a, Expression b) {
    return a == Wanted.TRUE ? b : new And(a, b);
  }

  private static Expression holds(Expression condition) {
    return new EqualNullSafe(condition, Wanted.TRUE);
  }

  /** An expression whose predictions are made where a condition holds. It does not look into conditions that stand in predictions already. */
  private static Expression guarded(Expression e, Expression condition) {
    if (condition == Wanted.TRUE || !condition.deterministic()) return e;
    if (e instanceof Inputs) return ((Inputs) e).isGuarded() ? e : ((Inputs) e).guarded(condition);
    if (e instanceof PythonUDF && predicts((PythonUDF) e) && !isGuarded((PythonUDF) e)) return guarded((PythonUDF) e, condition);
    if (e instanceof CaseWhen || e instanceof If) return (Expression) new Branches(condition).applyOrElse(e, null);
    return (Expression) e.mapChildren(new Guarded(condition));
  }

  private static boolean isGuarded(PythonUDF udf) {
    return predicts(udf) && ((Inputs) udf.children().apply(0)).isGuarded();
  }

  /** What is computed for a prediction's columns is so for the same rows: elsewhere it may fail. */
  private static Expression guarded(PythonUDF udf, Expression condition) {
    List arguments = new ArrayList();
    for (Object one : Lists.list(udf.children())) {
      arguments.add(one instanceof Inputs ? ((Inputs) one).guarded(condition) : Wanted.where(condition, guarded((Expression) one, condition)));
    }
    return (Expression) udf.withNewChildren(Lists.seq(arguments));
  }

  public static class Guarded extends scala.runtime.AbstractFunction1 {
    private final Expression condition;

    Guarded(Expression condition) {
      this.condition = condition;
    }

    public Object apply(Object e) {
      return guarded((Expression) e, condition);
    }
  }
}
