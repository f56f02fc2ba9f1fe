package dlsql;

import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.apache.spark.ContextAwareIterator;
import org.apache.spark.TaskContext;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.Literal;
import org.apache.spark.sql.catalyst.expressions.UnsafeProjection;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.execution.python.HybridRowQueue;
import org.apache.spark.sql.types.BinaryType$;
import org.apache.spark.unsafe.Platform;
import scala.collection.immutable.Seq;

/**
 * Rows to blocks: a ByteBuffer of each packed column, over an array that the next block fills anew. Where Spark feeds Python from a thread of
 * its own, this runs there. What is kept of the rows waits meanwhile, in their order.
 */
public final class Blocks extends scala.collection.AbstractIterator {
  private static final int BYTES = 4 << 20;  // of a packed column in a block, about: large enough that its journey costs nothing, small enough for caches

  final int spare;  // bytes behind each row that is kept
  final Queue sent = new ConcurrentLinkedQueue();  // the Marks of each block

  private final TaskContext context;
  private final scala.collection.Iterator rows;
  private final PackColumns.Rows slices;  // these, where they are packed out of columns: many at once, straight into the block; else null
  private final int[] places;  // of the packed columns in a row
  private final int most;  // rows of a block
  private final byte[][] held;
  private final int[] sizes;
  private final int fields;  // of what is kept
  private final UnsafeProjection keeping;  // null where slices keep numbers by themselves
  private final byte[] nothing;  // what is kept of each row where nothing of it is
  private final UnsafeRow row;  // that stands for it
  private final Waiting waiting;

  /**
   * @param kept the columns that are kept of a row.
   * @param outputs how many fields of NULL stand after them in what is kept.
   * @param spare bytes of room behind each row that is kept.
   * @param given the columns of a row.
   * @param places where among these the packed ones stand.
   * @param most rows of a block.
   */
  Blocks(Seq kept, int outputs, int spare, Seq given, int[] places, int most, scala.collection.Iterator rows, TaskContext context) {
    this.context = context;
    this.places = places;
    this.most = most;
    this.rows = new ContextAwareIterator(context, rows);
    slices = rows instanceof PackColumns.Rows ? (PackColumns.Rows) rows : null;
    held = new byte[places.length][1 << 12];
    sizes = new int[places.length];
    fields = kept.size() + outputs;
    this.spare = spare;
    List wanted = Lists.list(kept);
    while (wanted.size() < fields) wanted.add(Literal.create(null, BinaryType$.MODULE$));
    boolean any = !kept.isEmpty(), bySlice = any && slices != null && slices.isNarrow();
    keeping = bySlice ? null : UnsafeProjection.create(Lists.seq(wanted), slices == null ? given : slices.given());
    nothing = any ? null : Arrays.copyOf(keeping.apply(InternalRow.empty()).getBytes(), PackColumns.rowSize(fields) + spare);
    row = new UnsafeRow(fields);
    waiting = any ? new Waiting(fields, spare, context) : null;
  }

  public boolean hasNext() {
    return slices == null ? rows.hasNext() : choose(most);
  }

  private boolean choose(int most) {
    return !context.isCompleted() && !context.isInterrupted() && slices.choose(most);  // as Spark's ContextAwareIterator says
  }

  public Object next() {
    Arrays.fill(sizes, 0);
    Marks marks = new Marks(places.length);
    if (slices == null) while (marks.rows < most && size() < BYTES && rows.hasNext()) add((UnsafeRow) rows.next(), marks);
    else while (marks.rows < most && size() < BYTES && choose(Math.min(most - marks.rows, left()))) add(slices, marks);
    if (waiting != null) waiting.flush();
    marks.last = !hasNext();
    sent.add(marks);
    ByteBuffer[] block = new ByteBuffer[held.length];
    for (int i = 0; i < block.length; i++) block[i] = ByteBuffer.wrap(held[i], 0, sizes[i]);
    return block;
  }

  private int size() {
    int largest = 0;
    for (int size : sizes) largest = Math.max(largest, size);
    return largest;
  }

  /** How many rows of a slice the block has room for. */
  private int left() {
    int rows = most;
    for (int i = 0; i < held.length; i++) {
      int width = slices.width(places[i]);
      if (width > 0) rows = Math.min(rows, (BYTES - sizes[i] + width - 1) / width);
    }
    return rows;
  }

  private void add(UnsafeRow row, Marks marks) {
    for (int i = 0; i < held.length; i++) {
      if (row.isNullAt(places[i])) {
        marks.miss(i, marks.rows);
        continue;
      }
      long where = row.getLong(places[i]);  // of bytes: where they lie in the row, and how many they are
      int length = (int) where;
      reserve(i, length);
      Values.copy(row.getBaseObject(), row.getBaseOffset() + (where >>> 32), held[i], sizes[i], length);
      sizes[i] += length;
    }
    if (waiting != null) waiting.add(keeping.apply(row));
    marks.rows++;
  }

  private void add(PackColumns.Rows slice, Marks marks) {
    int count = slice.count();
    for (int i = 0; i < held.length; i++) {
      int width = slice.width(places[i]);
      reserve(i, Math.multiplyExact(count, width));
      boolean[] fits = slice.pack(places[i], held[i], sizes[i]);
      for (int row = 0, from = sizes[i]; row < count; row++, from += width) {
        if (!fits[row]) {
          marks.miss(i, marks.rows + row);
          continue;
        }
        if (from != sizes[i]) System.arraycopy(held[i], from, held[i], sizes[i], width);
        sizes[i] += width;
      }
    }
    if (waiting != null && keeping == null) waiting.add(slice);
    else if (waiting != null) for (int row = 0; row < count; row++) waiting.add(keeping.apply(slice.row(row)));
    marks.rows += count;
    slice.used();
  }

  private void reserve(int column, int bytes) {
    int needed = Math.addExact(sizes[column], bytes), size = held[column].length;
    if (needed > size) held[column] = Arrays.copyOf(held[column], (int) Math.max(Math.min(4L * size, BYTES), needed));
  }

  /** What is kept of the next row, with `spare` bytes behind it, until the one after it is asked for. */
  UnsafeRow kept() {
    if (waiting != null) return waiting.remove();
    row.pointTo(nothing, nothing.length - spare);
    return row;
  }

  /** Of a block that went to Python: how many rows it is of, whether any come after it, and which of them hold something to score. */
  static final class Marks {
    int rows;
    boolean last;
    final int[] missing;  // by packed column: how many rows hold nothing
    private final java.util.BitSet[] empty;  // which they are

    Marks(int columns) {
      missing = new int[columns];
      empty = new java.util.BitSet[columns];
    }

    void miss(int column, int row) {
      if (missing[column]++ == 0) empty[column] = new java.util.BitSet();
      empty[column].set(row);
    }

    boolean holds(int column, int row) {
      return missing[column] == 0 || !empty[column].get(row);
    }
  }

  /** Spark's queue, which spills, of rows in bunches: its lock and its calls for each row were 8 % of a profile's samples. */
  private static final class Waiting implements org.apache.spark.util.TaskCompletionListener {
    private static final int HEAD = 16;  // of a row of one BINARY: no NULL, and where its bytes lie
    private static final int BUNCH = 1 << 15;

    private final HybridRowQueue queue;
    private final UnsafeRow bunch = new UnsafeRow(1);
    private byte[] rows = new byte[BUNCH];  // each after its length, and before its spare bytes
    private int filled = HEAD;
    private final int fields;
    private final int spare;
    private final UnsafeRow row;
    private byte[] taken = new byte[0];  // a copy of a bunch: row by row out of the queue's memory, Platform copies slowly
    private int at;
    private int end;

    Waiting(int fields, int spare, TaskContext context) {
      queue = HybridRowQueue.apply(context.taskMemoryManager(), 1);
      this.fields = fields;
      this.spare = spare;
      row = new UnsafeRow(fields);
      context.addTaskCompletionListener(this);
    }

    public void onTaskCompletion(TaskContext context) {
      queue.close();
    }

    void add(UnsafeRow one) {
      int size = one.getSizeInBytes(), stride = 8 + size + spare;
      reserve(stride);
      Platform.putLong(rows, Platform.BYTE_ARRAY_OFFSET + filled, size);
      Values.copy(one.getBaseObject(), one.getBaseOffset(), rows, filled + 8, size);
      filled += stride;
    }

    /** A slice's rows of numbers. */
    void add(PackColumns.Rows slice) {
      int size = PackColumns.rowSize(fields), stride = 8 + size + spare;
      reserve(Math.multiplyExact(slice.count(), stride));
      slice.keep(rows, filled + 8, stride, fields);
      for (int i = 0; i < slice.count(); i++, filled += stride) Platform.putLong(rows, Platform.BYTE_ARRAY_OFFSET + filled, size);
    }

    private void reserve(int bytes) {
      if (filled > HEAD && filled + bytes > rows.length) flush();
      if (filled + bytes > rows.length) rows = new byte[Math.addExact(filled, bytes)];
    }

    /** Lets the other side have the rows that were added. */
    void flush() {
      if (filled == HEAD) return;
      Platform.putLong(rows, Platform.BYTE_ARRAY_OFFSET + 8, (long) HEAD << 32 | filled - HEAD);
      bunch.pointTo(rows, filled);
      queue.add(bunch);
      filled = HEAD;
      if (rows.length > 4 * BUNCH) rows = new byte[BUNCH];
    }

    /** The next row, until the one after it is taken. */
    UnsafeRow remove() {
      if (at == end) {
        UnsafeRow next = (UnsafeRow) queue.remove();
        at = HEAD;
        end = next.getSizeInBytes();
        if (taken.length < end) taken = new byte[end];
        Platform.copyMemory(next.getBaseObject(), next.getBaseOffset(), taken, Platform.BYTE_ARRAY_OFFSET, end);
      }
      int size = (int) Platform.getLong(taken, Platform.BYTE_ARRAY_OFFSET + at);
      row.pointTo(taken, Platform.BYTE_ARRAY_OFFSET + at + 8, size);
      at += 8 + size + spare;
      return row;
    }
  }
}
