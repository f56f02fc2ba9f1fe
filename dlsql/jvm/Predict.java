package dlsql;

import java.net.StandardSocketOptions;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.spark.ContextAwareIterator;
import org.apache.spark.TaskContext;
import org.apache.spark.api.python.BasePythonRunner;
import org.apache.spark.api.python.ChainedPythonFunctions;
import org.apache.spark.api.python.PythonWorker;
import org.apache.spark.rdd.RDD;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.*;
import org.apache.spark.sql.catalyst.expressions.codegen.GenerateUnsafeRowJoiner$;
import org.apache.spark.sql.catalyst.expressions.codegen.UnsafeRowJoiner;
import org.apache.spark.sql.catalyst.types.DataTypeUtils;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.sql.execution.metric.SQLMetrics;
import org.apache.spark.sql.execution.python.*;
import org.apache.spark.sql.types.BinaryType$;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.sql.vectorized.ColumnarBatch;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.array.ByteArrayMethods;
import scala.Tuple2;
import scala.collection.immutable.Seq;

/**
 * Predictions in blocks: the packed inputs of many rows travel to Python as one value and their outputs come back as one, so that neither
 * Arrow nor Python sees a row. Meanwhile Spark's own queue, which spills, holds what else is wanted of the rows.
 *
 * Its functions take columns of packed inputs, which stand after the columns that are kept; it gives these, then each network's outputs. What
 * it does for blocks, Spark's own operator does row by row, in sessions that have not been taught the language.
 */
public class Predict extends ArrowEvalPythonExec {
  private static final int BYTES = 4 << 20;  // of a block at most: large enough that its journey costs nothing, small enough for caches
  private static final String SCORED = "rowsScored";

  private final SQLMetric scored;

  public Predict(Seq udfs, Seq results, SparkPlan child, int evalType) {
    super(udfs, results, child, evalType);
    scored = SQLMetrics.createMetric(sparkContext(), "number of rows scored");
  }

  /** The columns of packed inputs, each once. */
  private List packed() {
    List columns = new ArrayList();
    for (Object udf : Lists.list(udfs())) {
      Object column = ((PythonUDF) udf).children().apply(0);
      if (!columns.contains(column)) columns.add(column);
    }
    return columns;
  }

  private List kept() {
    List columns = Lists.list(child().output());
    columns.removeAll(packed());
    return columns;
  }

  public Seq output() {
    List columns = kept();
    columns.addAll(Lists.list(resultAttrs()));
    return Lists.seq(columns);
  }

  public scala.collection.immutable.Map metrics() {
    return (scala.collection.immutable.Map) super.metrics().updated(SCORED, scored);
  }

  public boolean supportsColumnar() {
    return false;
  }

  public SparkPlan withNewChildInternal(SparkPlan child) {
    return new Predict(udfs(), resultAttrs(), child, evalType());
  }

  public boolean canEqual(Object other) {
    return other instanceof Predict;
  }

  public RDD doExecute() {
    List packed = packed();
    Task task = new Task();
    List calls = new ArrayList();
    task.arguments = new int[udfs().size()];
    for (int i = 0; i < task.arguments.length; i++) {
      PythonUDF udf = (PythonUDF) udfs().apply(i);
      List one = new ArrayList();
      one.add(udf.func());
      calls.add(new Tuple2(new ChainedPythonFunctions(Lists.seq(one)), Long.valueOf(udf.resultId().id())));
      task.arguments[i] = packed.indexOf(udf.children().apply(0));
    }
    task.calls = Lists.seq(calls);
    task.evalType = evalType();
    task.given = child().output();
    task.kept = Lists.seq(kept());
    task.output = output();
    task.places = new int[packed.size()];
    for (int i = 0; i < task.places.length; i++) task.places[i] = Lists.list(task.given).indexOf(packed.get(i));
    task.rows = conf().arrowMaxRecordsPerBatch();
    task.timeZone = conf().sessionLocalTimeZone();
    task.conf = ArrowPythonRunner.getPythonRunnerConfMap(conf());
    task.metrics = pythonMetrics();
    task.scored = scored;
    task.artifacts = org.apache.spark.JobArtifactSet$.MODULE$.getCurrentJobArtifactState().map(new Uuid());
    return child().execute().mapPartitionsInternal(task, false, scala.reflect.ClassTag$.MODULE$.apply(InternalRow.class));
  }

  public static class Uuid extends scala.runtime.AbstractFunction1 {
    public Object apply(Object state) {
      return ((org.apache.spark.JobArtifactState) state).uuid();
    }
  }

  /** What happens to a partition. */
  public static class Task extends scala.runtime.AbstractFunction1 implements java.io.Serializable {
    Seq calls;
    int[] arguments;  // of each call: which packed column it takes
    int evalType;
    Seq given;
    Seq kept;
    Seq output;
    int[] places;  // of the packed columns, in what is given
    int rows;  // of a block at most
    String timeZone;
    scala.collection.immutable.Map conf;
    scala.collection.immutable.Map metrics;
    SQLMetric scored;
    scala.Option artifacts;

    public Object apply(Object given) {
      TaskContext context = TaskContext.get();
      Blocks blocks = new Blocks(this, new ContextAwareIterator(context, (scala.collection.Iterator) given), context);
      EvalPythonExec.ArgumentMetadata[][] offsets = new EvalPythonExec.ArgumentMetadata[arguments.length][];
      for (int i = 0; i < offsets.length; i++) {
        offsets[i] = new EvalPythonExec.ArgumentMetadata[] {new EvalPythonExec.ArgumentMetadata(arguments[i], scala.Option.empty(), false)};
      }
      StructType types = new StructType();
      for (int i = 0; i < places.length; i++) types = types.add("_" + i, BinaryType$.MODULE$);
      scala.collection.Iterator answers = new Runner(this, offsets, types).compute(blocks, context.partitionId(), context);
      return new Rows(this, blocks, answers);
    }
  }

  /** Spark's, at once: its few small messages before a query's few rows wait for one another's receipts, which TCP puts off by 40 ms. */
  public static class Runner extends ArrowPythonWithNamedArgumentRunner {
    Runner(Task task, EvalPythonExec.ArgumentMetadata[][] offsets, StructType types) {
      super(task.calls, task.evalType, offsets, types, task.timeZone, false, task.conf, task.metrics, task.artifacts, scala.Option.empty());
    }

    public BasePythonRunner.Writer newWriter(org.apache.spark.SparkEnv env, PythonWorker worker, scala.collection.Iterator blocks, int partition,
        TaskContext context) {
      try {
        java.nio.channels.SocketChannel channel = worker.channel();
        if (channel.supportedOptions().contains(StandardSocketOptions.TCP_NODELAY)) channel.setOption(StandardSocketOptions.TCP_NODELAY, Boolean.TRUE);
      } catch (java.io.IOException e) {
        throw new java.io.UncheckedIOException(e);
      }
      return super.newWriter(env, worker, blocks, partition, context);
    }
  }

  /** Of a block that went to Python: how many rows it is of, whether any come after it, and which of them hold something to score. */
  public static final class Marks {
    int rows;
    boolean last;
    final int[] missing;  // by packed column: how many rows hold nothing
    final java.util.BitSet[] empty;  // which they are

    Marks(int columns) {
      missing = new int[columns];
      empty = new java.util.BitSet[columns];
    }

    void miss(int column) {
      if (missing[column]++ == 0) empty[column] = new java.util.BitSet();
      empty[column].set(rows);
    }

    boolean holds(int column, int row) {
      return missing[column] == 0 || !empty[column].get(row);
    }
  }

  /** Rows to blocks, each of them the one row of a batch. Where Spark feeds Python from a thread of its own, this runs there. */
  public static class Blocks extends scala.collection.AbstractIterator {
    final Queue sent = new ConcurrentLinkedQueue();
    final Waiting waiting;  // what is kept of the rows that were sent; null for nothing

    private final Task task;
    private final scala.collection.Iterator rows;
    private final UnsafeProjection keeping;
    private final byte[][] held;

    Blocks(Task task, scala.collection.Iterator rows, TaskContext context) {
      this.task = task;
      this.rows = rows;
      held = new byte[task.places.length][1 << 12];
      keeping = UnsafeProjection.create(task.kept, task.given);
      waiting = task.kept.isEmpty() ? null : new Waiting(task.kept.size(), context);
    }

    public boolean hasNext() {
      return rows.hasNext();
    }

    public Object next() {
      int columns = held.length, most = 0;
      int[] sizes = new int[columns];
      Marks marks = new Marks(columns);
      while (marks.rows < task.rows && most < BYTES && rows.hasNext()) {
        UnsafeRow row = (UnsafeRow) rows.next();
        for (int i = 0; i < columns; i++) {
          if (row.isNullAt(task.places[i])) {
            marks.miss(i);
            continue;
          }
          long where = row.getLong(task.places[i]);  // of bytes: where they lie in the row, and how many they are
          int length = (int) where;
          if (sizes[i] + length > held[i].length) held[i] = Arrays.copyOf(held[i], grown(held[i].length, length));
          Encoder.copy(row.getBaseObject(), row.getBaseOffset() + (where >>> 32), held[i], sizes[i], length);
          sizes[i] += length;
          if (sizes[i] > most) most = sizes[i];
        }
        if (waiting != null) waiting.add(keeping.apply(row));
        marks.rows++;
      }
      if (waiting != null) waiting.flush();
      marks.last = !rows.hasNext();
      sent.add(marks);
      Object[] block = new Object[columns];
      // Where the block is full its bytes go as they are: Spark has copied them before it asks for the next.
      for (int i = 0; i < columns; i++) block[i] = sizes[i] == held[i].length ? held[i] : Arrays.copyOf(held[i], sizes[i]);
      return scala.collection.Iterator$.MODULE$.single(new GenericInternalRow(block));
    }

    /** The next size of a buffer for rows of a length: of a full block in the end. */
    private int grown(int size, int length) {
      long rows = Math.min(task.rows, (BYTES + length - 1) / length);
      return (int) Math.min(Math.max(4L * size, length), rows * length);
    }
  }

  /** Spark's queue, which spills, of rows in bunches: its lock and its calls for each row were 8 % of a profile's samples. */
  static final class Waiting implements org.apache.spark.util.TaskCompletionListener {
    private static final int HEAD = 16;  // of a row of one BINARY: no NULL, and where its bytes lie
    private static final int BUNCH = 1 << 15;

    private final HybridRowQueue queue;
    private final UnsafeRow bunch = new UnsafeRow(1);
    private byte[] rows = new byte[BUNCH];  // each after its length
    private int filled = HEAD;
    private final UnsafeRow row;
    private UnsafeRow taken;
    private int at;
    private int end;

    Waiting(int fields, TaskContext context) {
      queue = HybridRowQueue.apply(context.taskMemoryManager(), 1);
      row = new UnsafeRow(fields);
      context.addTaskCompletionListener(this);
    }

    public void onTaskCompletion(TaskContext context) {
      queue.close();
    }

    void add(UnsafeRow one) {
      int size = one.getSizeInBytes();
      if (filled > HEAD && filled + 8 + size > rows.length) flush();
      if (filled + 8 + size > rows.length) rows = new byte[Math.addExact(filled + 8, size)];
      Platform.putLong(rows, Platform.BYTE_ARRAY_OFFSET + filled, size);
      Encoder.copy(one.getBaseObject(), one.getBaseOffset(), rows, filled + 8, size);
      filled += 8 + size;
    }

    /** Lets the other side have the rows that were added. */
    void flush() {
      if (filled == HEAD) return;
      Platform.putLong(rows, Platform.BYTE_ARRAY_OFFSET + 8, (long) HEAD << 32 | filled - HEAD);
      bunch.pointTo(rows, filled);
      queue.add(bunch);
      filled = HEAD;
      if (rows.length > BUNCH) rows = new byte[BUNCH];
    }

    /** The next row, until the one after it is taken. */
    UnsafeRow remove() {
      if (at == end) {
        taken = (UnsafeRow) queue.remove();
        at = HEAD;
        end = taken.getSizeInBytes();
      }
      long where = taken.getBaseOffset() + at;
      int size = (int) Platform.getLong(taken.getBaseObject(), where);
      row.pointTo(taken.getBaseObject(), where + 8, size);
      at += 8 + size;
      return row;
    }
  }

  /** The rows again, with what the networks gave. */
  public static class Rows extends scala.collection.AbstractIterator {
    private final Task task;
    private final Blocks blocks;
    private final scala.collection.Iterator answers;
    private final UnsafeRowJoiner joiner;
    private final UnsafeRow found;
    private final byte[][] outputs;  // of a block
    private final int[] widths;
    private final int[] places;
    private byte[] buffer;  // of the found row: marks of NULL, where each output lies and how long it is, the outputs
    private final int[] slots;
    private Marks marks = new Marks(0);
    private int at;

    Rows(Task task, Blocks blocks, scala.collection.Iterator answers) {
      this.task = task;
      this.blocks = blocks;
      this.answers = answers;
      int calls = task.arguments.length;
      StructType kept = DataTypeUtils.fromAttributes(task.kept), given = new StructType();
      for (int i = 0; i < calls; i++) given = given.add("_" + i, BinaryType$.MODULE$);
      joiner = GenerateUnsafeRowJoiner$.MODULE$.create(kept, given);
      found = new UnsafeRow(calls);
      outputs = new byte[calls][];
      widths = new int[calls];
      places = new int[calls];
      slots = new int[calls];
    }

    public boolean hasNext() {
      return at < marks.rows || answers.hasNext();
    }

    public Object next() {
      if (at == marks.rows) load();
      found.pointTo(buffer, buffer.length);
      for (int i = 0; i < outputs.length; i++) {
        if (!marks.holds(task.arguments[i], at)) {
          found.setNullAt(i);
          continue;
        }
        found.setNotNullAt(i);
        found.setLong(i, (long) slots[i] << 32 | widths[i]);
        System.arraycopy(outputs[i], places[i], buffer, slots[i], widths[i]);
        places[i] += widths[i];
      }
      at++;
      return blocks.waiting == null ? found : joiner.join(blocks.waiting.remove(), found);
    }

    private void load() {
      ColumnarBatch batch = (ColumnarBatch) answers.next();
      marks = (Marks) blocks.sent.remove();
      at = 0;
      for (int i = 0; i < outputs.length; i++) {
        int rows = marks.rows - marks.missing[task.arguments[i]];
        outputs[i] = batch.column(i).getBinary(0);
        widths[i] = rows == 0 ? 0 : outputs[i].length / rows;
        places[i] = 0;
        task.scored.add(rows);
      }
      int size = UnsafeRow.calculateBitSetWidthInBytes(widths.length) + 8 * widths.length;
      for (int i = 0; i < widths.length; size += ByteArrayMethods.roundNumberOfBytesToNearestWord(widths[i++])) slots[i] = size;
      buffer = new byte[size];
      // Python's worker is free for others once it has said that this is all, which under a LIMIT nobody above asks for: it would be ended,
      // and each small query begin a new one, which takes 400 ms.
      if (marks.last) answers.hasNext();
    }
  }
}
