package dlsql;

import org.apache.spark.rdd.RDD;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.python.ArrowEvalPythonExec;
import scala.collection.immutable.Seq;

/**
 * Predictions whose columns travel as they are: by Spark's own operator, which here asks whether there is another row before it gives one.
 * Python's worker is free for others once it has said that there is none. Under a LIMIT nobody above asks: it would be ended, and each small
 * query begin a new one and load the network anew.
 */
public class Unpacked extends ArrowEvalPythonExec {
  public Unpacked(Seq udfs, Seq results, SparkPlan child, int evalType) {
    super(udfs, results, child, evalType);
  }

  public String nodeName() {
    return "ArrowEvalPython";
  }

  public SparkPlan withNewChildInternal(SparkPlan child) {
    return new Unpacked(udfs(), resultAttrs(), child, evalType());
  }

  public boolean canEqual(Object other) {
    return other instanceof Unpacked;
  }

  /** Spark keeps the node before where a rule gives one that is equal. */
  public boolean equals(Object other) {
    return other instanceof Unpacked && super.equals(other);
  }

  public int hashCode() {
    return super.hashCode();
  }

  public RDD doExecute() {
    return super.doExecute().mapPartitionsInternal(new Ahead(), false, scala.reflect.ClassTag$.MODULE$.apply(InternalRow.class));
  }

  /** What happens to a partition. */
  public static class Ahead extends scala.runtime.AbstractFunction1 implements java.io.Serializable {
    public Object apply(Object rows) {
      return new Rows((scala.collection.Iterator) rows);
    }
  }

  /** The rows again. Each lies in a buffer of its projection, which the question for another one does not touch. */
  public static class Rows extends scala.collection.AbstractIterator {
    private final scala.collection.Iterator rows;

    Rows(scala.collection.Iterator rows) {
      this.rows = rows;
    }

    public boolean hasNext() {
      return rows.hasNext();
    }

    public Object next() {
      Object row = rows.next();
      rows.hasNext();
      return row;
    }
  }
}
