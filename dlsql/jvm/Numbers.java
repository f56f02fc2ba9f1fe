package dlsql;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.spark.sql.catalyst.expressions.*;
import org.apache.spark.sql.execution.FilterExec;
import org.apache.spark.sql.execution.ProjectExec;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.python.ArrowEvalPythonExec;
import org.apache.spark.sql.types.DoubleType$;

/**
 * A prediction of which nothing but its number is asked is given as the number by Predict itself, and no Answer reads it out of bytes: out of
 * a row that takes an array for each, a tenth of a prediction's time on the JVM. A projection that did nothing else goes.
 */
public final class Numbers {
  /** The same chain of projections, filters and predictions. */
  static SparkPlan of(SparkPlan plan) {
    SparkPlan made = plan;
    for (int at = 0; at < nodes(made).size(); at++) {
      SparkPlan node = (SparkPlan) nodes(made).get(at);
      if (!(node instanceof Predict)) continue;
      for (int i = 0; i < ((Predict) node).resultAttrs().size(); i++) made = numbered(made, at, i);
    }
    return renamed(made);
  }

  private static List nodes(SparkPlan plan) {
    List nodes = new ArrayList();  // from the top
    for (SparkPlan node = plan; node instanceof ProjectExec || node instanceof FilterExec || node instanceof ArrowEvalPythonExec;
        node = (SparkPlan) node.children().apply(0)) nodes.add(node);
    return nodes;
  }

  /** With one of the results of a node as a number, where it can be one. */
  private static SparkPlan numbered(SparkPlan plan, int at, int result) {
    List nodes = nodes(plan);
    Predict predict = (Predict) nodes.get(at);
    Use use = new Use((Attribute) predict.resultAttrs().apply(result));
    for (int i = at - 1; i >= 0; i--) if (!use.in((SparkPlan) nodes.get(i))) return plan;
    for (Object column : Lists.list(plan.output())) if (use.is(column)) return plan;
    if (use.answers == null) return plan;
    SparkPlan made = predict.numbered(result, use.answers);
    for (int i = at - 1; i >= 0; i--) made = use.over((SparkPlan) nodes.get(i), made);
    return made;
  }

  /** Without a projection that only gives a prediction another name. */
  private static SparkPlan renamed(SparkPlan plan) {
    if (!(plan instanceof ProjectExec) || !(((ProjectExec) plan).child() instanceof Predict)) return plan;
    List wanted = Lists.list(((ProjectExec) plan).projectList());
    Predict predict = (Predict) ((ProjectExec) plan).child();
    List given = Lists.list(predict.output()), names = new ArrayList();
    int first = given.size() - predict.resultAttrs().size();
    if (wanted.size() != given.size()) return plan;
    for (int i = 0; i < given.size(); i++) {
      Object one = wanted.get(i), read = one instanceof Alias ? ((Alias) one).child() : one;
      if (!given.get(i).equals(read) || i < first && one != read) return plan;
      if (i >= first) names.add(((NamedExpression) one).toAttribute());
    }
    return predict.named(Lists.seq(names));
  }

  /** Who asks for a prediction, under which names, and for what. */
  public static class Use extends scala.runtime.AbstractPartialFunction {
    private final Set ids = new HashSet();
    Answers answers;  // what reads it, where somebody does

    Use(Attribute result) {
      ids.add(result.exprId());
    }

    boolean is(Object e) {
      return e instanceof Attribute && ids.contains(((Attribute) e).exprId());
    }

    /** Whether a node hands it on, or asks for the number and for nothing else. */
    boolean in(SparkPlan node) {
      if (node instanceof FilterExec) return numberIn(((FilterExec) node).condition());
      if (node instanceof ArrowEvalPythonExec) {
        for (Object udf : Lists.list(((ArrowEvalPythonExec) node).udfs())) if (!numberless((Expression) udf)) return false;
        return true;
      }
      for (Object column : Lists.list(((ProjectExec) node).projectList())) {
        if (is(column)) continue;
        if (column instanceof Alias && is(((Alias) column).child())) ids.add(((Alias) column).exprId());
        else if (!numberIn((Expression) column)) return false;
      }
      return true;
    }

    private boolean numberless(Expression e) {
      return Lists.list(e.collect(this)).isEmpty();
    }

    private boolean numberIn(Expression e) {
      if (e instanceof Answer && is(e.children().apply(0))) {
        Answers reader = ((Answer) e).number();
        if (reader == null || answers != null && answers != reader) return false;
        answers = reader;
        return true;
      }
      if (is(e)) return false;
      for (Object child : Lists.list(e.children())) if (!numberIn((Expression) child)) return false;
      return true;
    }

    /** The same node over one that gives the number. */
    SparkPlan over(SparkPlan node, SparkPlan child) {
      if (node instanceof FilterExec) return new FilterExec((Expression) ((FilterExec) node).condition().transformDown(this), child);
      List one = new ArrayList();
      one.add(child);
      if (!(node instanceof ProjectExec)) return (SparkPlan) node.withNewChildren(Lists.seq(one));
      List columns = new ArrayList();
      for (Object column : Lists.list(((ProjectExec) node).projectList())) columns.add(((Expression) column).transformDown(this));
      return new ProjectExec(Lists.seq(columns), child);
    }

    public boolean isDefinedAt(Object e) {
      return is(e) || e instanceof Answer && is(((Answer) e).children().apply(0));
    }

    public Object applyOrElse(Object e, scala.Function1 otherwise) {
      return !isDefinedAt(e) ? otherwise.apply(e) : ((Attribute) (is(e) ? e : ((Answer) e).children().apply(0))).withDataType(DoubleType$.MODULE$);
    }
  }
}
