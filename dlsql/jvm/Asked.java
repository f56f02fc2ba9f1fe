package dlsql;

import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.internal.SQLConf;

/** What a prediction was asked at analysis, and what Python said to it: a stream may ask again for each of its batches. */
public class Asked implements java.io.Serializable {
  private static final List KEPT = Arrays.asList("inputs", "answer", "type", "packed");

  private final Map question;  // null where it is not asked again
  private final Map plan;
  private final long rows;  // of a batch

  Asked(Map question, Map plan) {
    this.question = question;
    this.plan = plan;
    rows = SQLConf.get().arrowMaxRecordsPerBatch();
  }

  boolean isOpen() {
    return question != null;
  }

  /** The same question, for an answer that takes the same columns and gives the same type. */
  Map again() {
    Map followed = new HashMap();
    for (Object kept : KEPT) followed.put(kept, plan.get(kept));
    Map asked = new HashMap(question);
    asked.put("followed", followed);
    return asked;
  }

  /** For EXPLAIN. */
  public String toString() {
    return plan.get("told") + ", " + rows + " rows a batch";
  }
}
