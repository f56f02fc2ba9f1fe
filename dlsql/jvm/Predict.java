package dlsql;

import com.google.flatbuffers.FlatBufferBuilder;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.Channels;
import java.util.ArrayList;
import java.util.List;
import org.apache.arrow.flatbuf.Buffer;
import org.apache.arrow.flatbuf.FieldNode;
import org.apache.arrow.flatbuf.MessageHeader;
import org.apache.arrow.flatbuf.RecordBatch;
import org.apache.arrow.vector.VectorSchemaRoot;
import org.apache.arrow.vector.ipc.ArrowStreamWriter;
import org.apache.arrow.vector.ipc.WriteChannel;
import org.apache.arrow.vector.ipc.message.IpcOption;
import org.apache.arrow.vector.ipc.message.MessageSerializer;
import org.apache.spark.TaskContext;
import org.apache.spark.api.python.BasePythonRunner;
import org.apache.spark.api.python.ChainedPythonFunctions;
import org.apache.spark.api.python.PythonWorker;
import org.apache.spark.rdd.RDD;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.*;
import org.apache.spark.sql.execution.SparkPlan;
import org.apache.spark.sql.execution.metric.SQLMetric;
import org.apache.spark.sql.execution.metric.SQLMetrics;
import org.apache.spark.sql.execution.python.*;
import org.apache.spark.sql.types.BinaryType$;
import org.apache.spark.sql.types.DoubleType$;
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
 * Its functions take columns of packed inputs, which stand after the columns that are kept; it gives these, then each network's outputs, or of
 * these the number that they mean. What it does for blocks, Spark's own operator does row by row, in sessions that have not been taught the language.
 */
public class Predict extends ArrowEvalPythonExec {
  private static final String SCORED = "rowsScored";

  private final List numbers;  // of each result that is given as a number what reads it, else null; a list, since equal plans have equal hashes
  private final int most;  // rows of a block
  private final SQLMetric scored;

  public Predict(Seq udfs, Seq results, SparkPlan child, int evalType, List numbers, int most) {
    super(udfs, results, child, evalType);
    this.numbers = numbers;
    this.most = most;
    scored = SQLMetrics.createMetric(sparkContext(), "number of rows scored");
  }

  /** The same, with a result as a number. */
  Predict numbered(int result, Answers answers) {
    List results = Lists.list(resultAttrs());
    results.set(result, ((Attribute) results.get(result)).withDataType(DoubleType$.MODULE$));
    List all = new ArrayList(numbers);
    all.set(result, answers);
    return new Predict(udfs(), Lists.seq(results), child(), evalType(), all, most);
  }

  /** The same, with its results under other names. */
  Predict named(Seq results) {
    return new Predict(udfs(), results, child(), evalType(), numbers, most);
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
    return new Predict(udfs(), resultAttrs(), child, evalType(), numbers, most);
  }

  public int productArity() {
    return 6;
  }

  public Object productElement(int i) {
    return i == 5 ? Integer.valueOf(most) : i == 4 ? numbers : super.productElement(i);
  }

  public scala.collection.Iterator stringArgs() {
    List told = new ArrayList();
    told.add(udfs());
    told.add(resultAttrs());
    return Lists.seq(told).iterator();
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
    task.numbers = (Answers[]) numbers.toArray(new Answers[0]);
    task.evalType = evalType();
    task.given = child().output();
    task.kept = Lists.seq(kept());
    task.places = new int[packed.size()];
    for (int i = 0; i < task.places.length; i++) task.places[i] = Lists.list(task.given).indexOf(packed.get(i));
    int records = conf().arrowMaxRecordsPerBatch();
    task.rows = records > 0 ? Math.min(records, most) : most;  // 0, as Spark reads it: no limit
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
    Answers[] numbers;  // what reads its number, where that is what is given
    int evalType;
    Seq given;
    Seq kept;
    int[] places;  // of the packed columns, in what is given
    int rows;  // of a block at most
    String timeZone;
    scala.collection.immutable.Map conf;
    scala.collection.immutable.Map metrics;
    SQLMetric scored;
    scala.Option artifacts;

    public Object apply(Object given) {
      TaskContext context = TaskContext.get();
      Blocks blocks = new Blocks(kept, arguments.length, spare(), this.given, places, rows, (scala.collection.Iterator) given, context);
      EvalPythonExec.ArgumentMetadata[][] offsets = new EvalPythonExec.ArgumentMetadata[arguments.length][];
      for (int i = 0; i < offsets.length; i++) {
        offsets[i] = new EvalPythonExec.ArgumentMetadata[] {new EvalPythonExec.ArgumentMetadata(arguments[i], scala.Option.empty(), false)};
      }
      StructType types = new StructType();
      for (int i = 0; i < places.length; i++) types = types.add("_" + i, BinaryType$.MODULE$);
      scala.collection.Iterator answers = new Runner(this, offsets, types).compute(blocks, context.partitionId(), context);
      return new Rows(this, blocks, answers);
    }

    /** Bytes behind each row that is kept: room for outputs of one or two numbers, which are then written without a copy. */
    private int spare() {
      int bytes = 0;
      for (Answers number : numbers) if (number == null) bytes += 8;
      return bytes;
    }
  }

  /**
   * Spark's, at once and from where the blocks lie. Its few small messages before a query's few rows wait for one another's receipts, which TCP
   * puts off by 40 ms; its writer of batches clears a vector, and copies a block four times.
   */
  public static final class Runner extends ArrowPythonWithNamedArgumentRunner {
    Runner(Task task, EvalPythonExec.ArgumentMetadata[][] offsets, StructType types) {
      super(task.calls, task.evalType, offsets, types, task.timeZone, false, task.conf, task.metrics, task.artifacts, scala.Option.empty());
    }

    public BasePythonRunner.Writer newWriter(org.apache.spark.SparkEnv env, PythonWorker worker, scala.collection.Iterator blocks, int partition,
        TaskContext context) {
      try {
        java.nio.channels.SocketChannel channel = worker.channel();
        if (channel.supportedOptions().contains(StandardSocketOptions.TCP_NODELAY)) channel.setOption(StandardSocketOptions.TCP_NODELAY, Boolean.TRUE);
      } catch (IOException e) {
        throw new java.io.UncheckedIOException(e);
      }
      return super.newWriter(env, worker, blocks, partition, context);
    }

    public boolean writeNextBatchToArrowStream(VectorSchemaRoot root, ArrowStreamWriter writer, DataOutputStream out,
        scala.collection.Iterator blocks) {
      if (!blocks.hasNext()) return super.writeNextBatchToArrowStream(root, writer, out, blocks);  // ends the stream
      int before = out.size();
      try {
        write((ByteBuffer[]) blocks.next(), out);
      } catch (IOException e) {
        throw new java.io.UncheckedIOException(e);
      }
      ((SQLMetric) pythonMetrics().apply("pythonDataSent")).add(out.size() - before);
      return true;
    }

    /** A batch of one row: of each column no mark of NULL, where its bytes begin and end, and these. */
    private static void write(ByteBuffer[] row, DataOutputStream out) throws IOException {
      FlatBufferBuilder made = new FlatBufferBuilder();
      RecordBatch.startNodesVector(made, row.length);
      for (int i = 0; i < row.length; i++) FieldNode.createFieldNode(made, 1, 0);
      int nodes = made.endVector();
      long size = 0;
      for (ByteBuffer bytes : row) size += 8 + padded(bytes);
      RecordBatch.startBuffersVector(made, 3 * row.length);
      long at = size;
      for (int i = row.length - 1; i >= 0; i--) {  // it builds from the end
        at -= padded(row[i]);
        Buffer.createBuffer(made, at, row[i].remaining());
        at -= 8;
        Buffer.createBuffer(made, at, 8);
        Buffer.createBuffer(made, at, 0);
      }
      int buffers = made.endVector();
      RecordBatch.startRecordBatch(made);
      RecordBatch.addLength(made, 1);
      RecordBatch.addNodes(made, nodes);
      RecordBatch.addBuffers(made, buffers);
      ByteBuffer head = MessageSerializer.serializeMessage(made, MessageHeader.RecordBatch, RecordBatch.endRecordBatch(made), size, IpcOption.DEFAULT);
      MessageSerializer.writeMessageBuffer(new WriteChannel(Channels.newChannel(out)), head.remaining(), head);
      for (ByteBuffer bytes : row) {
        out.writeLong(Long.reverseBytes((long) bytes.remaining() << 32));  // 0 and the length, the lowest byte first
        out.write(bytes.array(), 0, bytes.remaining());
        out.write(new byte[8], 0, padded(bytes) - bytes.remaining());
      }
    }

    private static int padded(ByteBuffer bytes) {
      return ByteArrayMethods.roundNumberOfBytesToNearestWord(bytes.remaining());
    }
  }

  /** The rows again, with what the networks gave. */
  public static class Rows extends scala.collection.AbstractIterator {
    private final Task task;
    private final Blocks blocks;
    private final scala.collection.Iterator answers;
    private final UnsafeRow copy;
    private final int first;  // the field of the first output
    private final Answers[] numbers;
    private final byte[][] outputs;  // of a block
    private final int[] widths;
    private final int[] places;
    private byte[] buffer = new byte[0];  // of the copy
    private int room;  // that the outputs take in it
    private Blocks.Marks marks = new Blocks.Marks(0);
    private int at;

    Rows(Task task, Blocks blocks, scala.collection.Iterator answers) {
      this.task = task;
      this.blocks = blocks;
      this.answers = answers;
      int calls = task.arguments.length;
      first = task.kept.size();
      numbers = task.numbers;
      copy = new UnsafeRow(first + calls);
      outputs = new byte[calls][];
      widths = new int[calls];
      places = new int[calls];
    }

    public boolean hasNext() {
      return at < marks.rows || answers.hasNext();
    }

    public Object next() {
      if (at == marks.rows) load();
      UnsafeRow row = blocks.kept();
      if (room > blocks.spare) row = roomier(row);
      byte[] bytes = (byte[]) row.getBaseObject();
      int begin = (int) (row.getBaseOffset() - Platform.BYTE_ARRAY_OFFSET), size = row.getSizeInBytes();
      for (int i = 0; i < outputs.length; i++) {
        if (!marks.holds(task.arguments[i], at)) {
          row.setNullAt(first + i);
          continue;
        }
        if (numbers[i] != null) {
          row.setDouble(first + i, numbers[i].number(outputs[i], places[i]));
          places[i] += widths[i];
          continue;
        }
        int width = widths[i], end = size + ByteArrayMethods.roundNumberOfBytesToNearestWord(width);
        if (end > size) Platform.putLong(bytes, Platform.BYTE_ARRAY_OFFSET + begin + end - 8, 0);
        Values.copy(outputs[i], Platform.BYTE_ARRAY_OFFSET + places[i], bytes, begin + size, width);
        row.setLong(first + i, (long) size << 32 | width);  // which takes away the mark of NULL, too
        places[i] += width;
        size = end;
      }
      row.pointTo(bytes, row.getBaseOffset(), size);
      at++;
      return row;
    }

    /** A copy of a row, with room behind it for what the networks gave. */
    private UnsafeRow roomier(UnsafeRow row) {
      int size = row.getSizeInBytes();
      if (buffer.length < size + room) buffer = new byte[Math.addExact(size, room)];
      Values.copy(row.getBaseObject(), row.getBaseOffset(), buffer, 0, size);
      copy.pointTo(buffer, size);
      return copy;
    }

    private void load() {
      ColumnarBatch batch = (ColumnarBatch) answers.next();
      marks = (Blocks.Marks) blocks.sent.remove();
      at = 0;
      room = 0;
      for (int i = 0; i < outputs.length; i++) {
        int rows = marks.rows - marks.missing[task.arguments[i]];
        outputs[i] = batch.column(i).getBinary(0);
        widths[i] = rows == 0 ? 0 : outputs[i].length / rows;
        places[i] = 0;
        if (numbers[i] == null) room += ByteArrayMethods.roundNumberOfBytesToNearestWord(widths[i]);
        task.scored.add(rows);
      }
      // Python's worker is free for others once it has said that this is all, which under a LIMIT nobody above asks for: it would be ended,
      // and each small query begin a new one, which takes 400 ms.
      if (marks.last) answers.hasNext();
    }
  }
}
