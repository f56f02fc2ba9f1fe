package dlsql;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.Literal;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.types.BooleanType$;
import org.apache.spark.unsafe.Platform;
import scala.Tuple2;

/**
 * Rows to blocks for training: packed where they are read, shuffled in chunks, put in order, and cut into blocks, all as bytes.
 *
 * The order follows from the rows alone. A row begins with a key of 8 bytes, a hash of its content whose lowest bit says whether it is held
 * out; a worker's rows lie by that bit, then by the key, then by their bytes, however the shuffle brought them. So that a worker's part need
 * not fit into memory, it is divided into buckets by the key's highest bits, and put in order one after the other.
 */
public final class Packing {
  private static final int CHUNKS = 32 << 20;  // bytes of rows that a task holds before it gives them to the shuffle

  /** Blocks as Python's pickles of (worker, held out, rows, dense, codes, label, weight): a partition for each worker. */
  public static JavaRDD blocks(org.apache.spark.sql.classic.Dataset rows, Encoder encoder, int workers, int buckets, int[] ends, int blockRows) {
    List features = Lists.list(rows.queryExecution().analyzed().output());
    Expression packed = Encode.of(encoder, Literal.create(Boolean.TRUE, BooleanType$.MODULE$), features, null);
    Column[] columns = new Column[] {org.apache.spark.sql.classic.ExpressionUtils.column(packed)};
    JavaRDD read = ((org.apache.spark.sql.classic.Dataset) rows.select(columns)).queryExecution().toRdd().toJavaRDD();
    return read.mapPartitionsToPair(new Split(workers, buckets)).repartitionAndSortWithinPartitions(new ByWorker(workers, buckets))
        .mapPartitions(new Order(buckets, ends, blockRows));
  }

  /** What each partition of blocks holds: rows to train on, rows held out, and a checksum of all bytes in their order. */
  public static List counted(JavaRDD blocks) {
    return blocks.mapPartitions(new Count()).collect();
  }

  /** Rows to chunks by bucket: worker, held out or not, highest bits of the key. */
  public static class Split implements org.apache.spark.api.java.function.PairFlatMapFunction {
    private final int workers;
    private final int buckets;

    public Split(int workers, int buckets) {
      this.workers = workers;
      this.buckets = buckets;
    }

    public Iterator call(Object rows) {
      return new Chunks((Iterator) rows, workers, buckets);
    }
  }

  public static class Chunks implements Iterator {
    private final Iterator rows;
    private final int workers;
    private final int buckets;
    private final byte[][] held;
    private final int[] sizes;
    private Iterator ready = new ArrayList().iterator();

    public Chunks(Iterator rows, int workers, int buckets) {
      this.rows = rows;
      this.workers = workers;
      this.buckets = buckets;
      held = new byte[2 * workers * buckets][];
      sizes = new int[held.length];
    }

    public boolean hasNext() {
      if (!ready.hasNext() && rows.hasNext()) fill();
      return ready.hasNext();
    }

    public Object next() {
      return ready.next();
    }

    private void fill() {
      int total = 0;
      while (rows.hasNext() && total < CHUNKS) {
        UnsafeRow given = (UnsafeRow) rows.next();  // of one column: where its bytes lie and how many they are stand in its 8 bytes
        int length = (int) given.getLong(0);
        Object row = given.getBaseObject();
        long from = given.getBaseOffset() + (given.getLong(0) >>> 32);
        long key = Platform.getLong(row, from);
        int worker = (int) Math.floorMod(key >> 30, (long) workers);
        int bucket = (int) (((key >>> 33) * buckets) >>> 31);
        int place = (2 * worker + (int) (key & 1)) * buckets + bucket;
        byte[] chunk = held[place];
        if (chunk == null) chunk = held[place] = new byte[Math.max(length, 1 << 12)];
        if (sizes[place] + length > chunk.length) chunk = held[place] = Arrays.copyOf(chunk, Math.max(2 * chunk.length, sizes[place] + length));
        Platform.copyMemory(row, from, chunk, Platform.BYTE_ARRAY_OFFSET + sizes[place], length);
        sizes[place] += length;
        total += length;
      }
      List chunks = new ArrayList();
      for (int place = 0; place < held.length; place++) {
        if (sizes[place] > 0) chunks.add(new Tuple2(Integer.valueOf(place), Arrays.copyOf(held[place], sizes[place])));
        sizes[place] = 0;
      }
      ready = chunks.iterator();
    }
  }

  public static class ByWorker extends org.apache.spark.Partitioner {
    private final int workers;
    private final int buckets;

    public ByWorker(int workers, int buckets) {
      this.workers = workers;
      this.buckets = buckets;
    }

    public int numPartitions() {
      return workers;
    }

    public int getPartition(Object key) {
      return ((Integer) key).intValue() / (2 * buckets);
    }
  }

  /** A worker's chunks, by bucket, to its blocks. `ends` says where in a row the key, label, weight, numbers and codes end. */
  public static class Order implements org.apache.spark.api.java.function.FlatMapFunction {
    private final int buckets;
    private final int[] ends;
    private final int blockRows;

    public Order(int buckets, int[] ends, int blockRows) {
      this.buckets = buckets;
      this.ends = ends;
      this.blockRows = blockRows;
    }

    public Iterator call(Object chunks) {
      return new Blocks((Iterator) chunks, buckets, ends, blockRows);
    }
  }

  public static class Blocks implements Iterator {
    private final Iterator chunks;
    private final int buckets;
    private final int[] ends;
    private final int size;  // of a row
    private final int blockRows;
    private Tuple2 ahead;
    private byte[] rows = new byte[0];  // of a bucket
    private int[] order = new int[0];
    private int at = 0;
    private int bucket = -1;

    public Blocks(Iterator chunks, int buckets, int[] ends, int blockRows) {
      this.chunks = chunks;
      this.buckets = buckets;
      this.ends = ends;
      this.size = ends[ends.length - 1];
      this.blockRows = blockRows;
      ahead = chunks.hasNext() ? (Tuple2) chunks.next() : null;
    }

    public boolean hasNext() {
      return at < order.length || ahead != null;
    }

    public Object next() {
      if (at == order.length) load();
      int n = Math.min(blockRows, order.length - at);
      byte[][] buffers = new byte[4][];  // label, weight, numbers, codes
      for (int part = 0; part < 4; part++) {
        int from = ends[part], width = ends[part + 1] - from;
        byte[] buffer = buffers[part] = new byte[n * width];
        for (int i = 0; i < n; i++) System.arraycopy(rows, order[at + i] * size + from, buffer, i * width, width);
      }
      at += n;
      boolean heldOut = bucket / buckets % 2 == 1;
      return pickled(bucket / (2 * buckets), heldOut, n, new byte[][] {buffers[2], buffers[3], buffers[0], buffers[1]});
    }

    private void load() {
      bucket = ((Integer) ahead._1()).intValue();
      List all = new ArrayList();
      int total = 0;
      while (ahead != null && ((Integer) ahead._1()).intValue() == bucket) {
        all.add(ahead._2());
        total = Math.addExact(total, ((byte[]) ahead._2()).length);
        ahead = chunks.hasNext() ? (Tuple2) chunks.next() : null;
      }
      rows = new byte[total];
      int filled = 0;
      for (Object chunk : all) {
        System.arraycopy(chunk, 0, rows, filled, ((byte[]) chunk).length);
        filled += ((byte[]) chunk).length;
      }
      order = ordered(rows, size);
      at = 0;
    }
  }

  /** The places of rows in the order of their keys as unsigned numbers, then of their bytes. */
  public static int[] ordered(byte[] rows, int size) {
    int n = rows.length / size;
    int[] order = new int[n], other = new int[n];
    for (int i = 0; i < n; i++) order[i] = i;
    for (int shift = 0; shift < 64; shift += 16) {  // a radix sort, from the lowest digit
      int[] starts = new int[(1 << 16) + 1];
      for (int i = 0; i < n; i++) starts[digit(rows, size, i, shift) + 1]++;
      for (int i = 0; i < 1 << 16; i++) starts[i + 1] += starts[i];
      for (int i = 0; i < n; i++) other[starts[digit(rows, size, order[i], shift)]++] = order[i];
      int[] swapped = order;
      order = other;
      other = swapped;
    }
    for (int i = 1; i < n; i++) {  // equal keys are equal rows or next to none
      int one = order[i], j = i;
      for (; j > 0 && compare(rows, size, order[j - 1], one) > 0; j--) order[j] = order[j - 1];
      order[j] = one;
    }
    return order;
  }

  private static int digit(byte[] rows, int size, int row, int shift) {
    return (int) (Platform.getLong(rows, Platform.BYTE_ARRAY_OFFSET + (long) row * size) >>> shift) & 0xffff;
  }

  private static int compare(byte[] rows, int size, int a, int b) {
    long first = Platform.getLong(rows, Platform.BYTE_ARRAY_OFFSET + (long) a * size);
    long second = Platform.getLong(rows, Platform.BYTE_ARRAY_OFFSET + (long) b * size);
    if (first != second) return Long.compareUnsigned(first, second);
    return Arrays.compareUnsigned(rows, a * size, (a + 1) * size, rows, b * size, (b + 1) * size);
  }

  /** A tuple as Python's pickle protocol 3 writes it. */
  private static byte[] pickled(int worker, boolean heldOut, int rows, byte[][] buffers) {
    int length = 16;  // of all but the buffers
    for (byte[] buffer : buffers) length += 5 + buffer.length;
    java.nio.ByteBuffer out = java.nio.ByteBuffer.allocate(length).order(java.nio.ByteOrder.LITTLE_ENDIAN);
    out.put((byte) 0x80).put((byte) 3).put((byte) '(');
    out.put((byte) 'J').putInt(worker).put((byte) (heldOut ? 0x88 : 0x89)).put((byte) 'J').putInt(rows);
    for (byte[] buffer : buffers) out.put((byte) 'B').putInt(buffer.length).put(buffer);
    return out.put((byte) 't').put((byte) '.').array();
  }

  public static class Count implements org.apache.spark.api.java.function.FlatMapFunction {
    public Iterator call(Object blocks) {
      long[] rows = new long[2];
      java.util.zip.CRC32 content = new java.util.zip.CRC32();
      for (Iterator all = (Iterator) blocks; all.hasNext();) {
        byte[] block = (byte[]) all.next();
        boolean heldOut = block[8] == (byte) 0x88;
        rows[heldOut ? 1 : 0] += java.nio.ByteBuffer.wrap(block, 10, 4).order(java.nio.ByteOrder.LITTLE_ENDIAN).getInt();
        content.update(block);
      }
      List counts = new ArrayList();
      counts.add(new long[] {rows[0], rows[1], content.getValue()});
      return counts.iterator();
    }
  }
}
