package dlsql;

import java.util.Arrays;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.And;
import org.apache.spark.sql.catalyst.expressions.Attribute;
import org.apache.spark.sql.catalyst.expressions.ConditionalExpression;
import org.apache.spark.sql.catalyst.expressions.CreateNamedStruct;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.If;
import org.apache.spark.sql.catalyst.expressions.Literal;
import org.apache.spark.sql.catalyst.expressions.PrettyAttribute;
import org.apache.spark.sql.catalyst.expressions.codegen.CodegenContext;
import org.apache.spark.sql.catalyst.expressions.codegen.ExprCode;
import org.apache.spark.sql.catalyst.trees.TreeNode;
import org.apache.spark.sql.types.*;
import scala.collection.immutable.IndexedSeq;
import scala.collection.immutable.Seq;

/**
 * The first of the columns that travel to Python as they are, in a struct beside whether its row is to be scored: the CASE around the
 * prediction comes to it, and the features are there. Where there is a CASE all else is evaluated for its rows alone, as in Encode.
 */
public class Wanted extends Expression implements Inputs, ConditionalExpression, java.io.Serializable {
  static final Expression TRUE = Literal.create(Boolean.TRUE, BooleanType$.MODULE$);

  private final Expression there;
  private final Expression guard;
  private final Expression column;
  private final Asked asked;

  Wanted(Expression there, Expression guard, Expression column, Asked asked) {
    this.there = there;
    this.guard = guard;
    this.column = column;
    this.asked = asked;
  }

  public boolean isGuarded() {
    return !isTrue(guard);
  }

  public Expression guarded(Expression condition) {
    return new Wanted(there, condition, column, asked);
  }

  public Asked asked() {
    return asked;
  }

  public Expression of(Asked asked, Encoder encoder) {
    return new Wanted(there, guard, column, asked);
  }

  private Expression struct() {
    Expression both = isTrue(there) ? guard : new And(guard, there);
    return new CreateNamedStruct(Lists.seq(Arrays.asList(name("wanted"), both, name("column"), isGuarded() ? where(guard, column) : column)));
  }

  /** A column for the rows that a condition holds for, where it takes any computing; NULL elsewhere. */
  static Expression where(Expression condition, Expression column) {
    boolean isThere = column instanceof Attribute || column instanceof Literal;
    return isThere ? column : new If(condition, column, Literal.create(null, column.dataType()));
  }

  /** The inverse of `where`. */
  static Expression everywhere(Expression column) {
    boolean isWhere = column instanceof If && ((If) column).falseValue() instanceof Literal && ((Literal) ((If) column).falseValue()).value() == null;
    return isWhere ? ((If) column).trueValue() : column;
  }

  private static Expression name(String text) {
    return Literal.create(text, StringType$.MODULE$);
  }

  public Seq children() {
    return Lists.seq(Arrays.asList(guard, there, column));
  }

  public Seq alwaysEvaluatedInputs() {
    return isGuarded() ? Lists.seq(Arrays.asList(new Object[] {guard})) : children();
  }

  public ConditionalExpression withNewAlwaysEvaluatedInputs(Seq changed) {
    Object first = changed.apply(0);
    return isGuarded() ? new Wanted(there, (Expression) first, column, asked)
        : new Wanted((Expression) changed.apply(1), (Expression) first, (Expression) changed.apply(2), asked);
  }

  public Seq branchGroups() {
    return Lists.seq(new java.util.ArrayList());
  }

  public boolean foldable() {
    return false;
  }

  public boolean nullable() {
    return false;
  }

  public DataType dataType() {
    return struct().dataType();
  }

  public TreeNode withNewChildrenInternal(IndexedSeq changed) {
    return new Wanted((Expression) changed.apply(1), (Expression) changed.apply(0), (Expression) changed.apply(2), asked);
  }

  public int productArity() {
    return 4;
  }

  public Object productElement(int i) {
    return i == 0 ? guard : i == 1 ? there : i == 2 ? column : asked;
  }

  public boolean canEqual(Object other) {
    return other instanceof Wanted;
  }

  public boolean equals(Object other) {
    return other instanceof Wanted && children().equals(((Wanted) other).children());
  }

  public int hashCode() {
    return children().hashCode();
  }

  /** In a plan everything; in the name of a column that is given none the column alone. */
  public String toString() {
    if (isPretty(column)) return column.toString();
    return asked + ": " + column + (isGuarded() ? " where " + guard : "");
  }

  public Object eval(InternalRow input) {
    return struct().eval(input);
  }

  public ExprCode doGenCode(CodegenContext ctx, ExprCode ev) {
    ExprCode made = struct().genCode(ctx);
    return new ExprCode(made.code(), made.isNull(), made.value());
  }

  static boolean isTrue(Expression e) {
    return e instanceof Literal && Boolean.TRUE.equals(((Literal) e).value());
  }

  /** Whether an expression stands in the name of a column that is given none: Spark has made its attributes pretty. */
  static boolean isPretty(Expression e) {
    return !Lists.list(e.collect(new Pretty())).isEmpty();
  }

  public static class Pretty extends scala.runtime.AbstractPartialFunction {
    public boolean isDefinedAt(Object e) {
      return e instanceof PrettyAttribute;
    }

    public Object applyOrElse(Object e, scala.Function1 otherwise) {
      return isDefinedAt(e) ? e : otherwise.apply(e);
    }
  }
}
