package dlsql;

import org.apache.spark.sql.catalyst.expressions.Expression;

/** The first argument of a prediction's Python function: it says which rows are scored, and by it predictions are told from other functions. */
public interface Inputs {
  /** Whether a CASE around the prediction says so, too. */
  boolean isGuarded();

  /** The same, for the rows that a condition holds for. */
  Expression guarded(Expression condition);

  Asked asked();

  /** The same, for another version of the model; its encoder where it has one. */
  Expression of(Asked asked, Encoder encoder);
}
