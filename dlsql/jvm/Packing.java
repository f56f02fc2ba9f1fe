package dlsql;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.rdd.RDD;
import org.apache.spark.rdd.ShuffledRDD;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.catalyst.expressions.XXH64;
import org.apache.spark.storage.BlockManager;
import org.apache.spark.storage.BlockManagerId;
import org.apache.spark.storage.RDDBlockId;
import org.apache.spark.storage.StorageLevel$;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.util.io.ChunkedByteBuffer;
import scala.Tuple2;
import scala.reflect.ClassTag;
import scala.reflect.ClassTag$;

/**
 * Rows to blocks for training: packed where they are read, shuffled in chunks, put in order, and cut into blocks, all as bytes.
 *
 * The order follows from the rows alone. A row begins with a key of 8 bytes, a hash of its other bytes whose lowest bit says whether it is
 * held out: as the row says there, or by the hash itself, so many of 2^30. A worker's rows lie by that bit, then by the key, then by their bytes, however the shuffle brought them. So that a worker's part need
 * not fit into memory, it is divided into buckets by the key's highest bits, which are put in order one after the other; some of them, which
 * fit into a core's cache one by one, make a block.
 */
public final class Packing {
  private static final int HEAD = 32;  // bytes before a block's rows: eight numbers, see Blocks.next
  private static final ClassTag BUFFER = ClassTag$.MODULE$.apply(java.nio.ByteBuffer.class);
  private static final ClassTag BYTES = ClassTag$.MODULE$.apply(byte[].class);
  private static final int MOST = 64 << 20;  // bytes of a block; rows that are alike are in one bucket, however many they are
  private static final int CHUNKS = 32 << 20;  // bytes of rows that a task holds at most on their way to the shuffle
  private static final int CHUNK = 1 << 18;  // that one of a bucket's chunks has at most

  /** Where each worker's blocks lie, a partition for each worker; see Files. */
  public static JavaRDD blocks(org.apache.spark.sql.classic.Dataset rows, Encoder encoder, int workers, int buckets, int joined, int[] ends,
      long seed, int drawn, String name) {
    List features = Lists.list(rows.queryExecution().analyzed().output());
    Expression packed = Encode.of(encoder, Wanted.TRUE, features, null);
    Column[] columns = new Column[] {org.apache.spark.sql.classic.ExpressionUtils.column(packed)};
    JavaRDD read = ((org.apache.spark.sql.classic.Dataset) rows.select(columns)).queryExecution().toRdd().toJavaRDD();
    RDD split = read.mapPartitionsToPair(new Split(workers, buckets, encoder.bytes(), seed, drawn)).rdd();
    RDD shuffled = new ShuffledRDD(split, new ByWorker(workers, buckets), ClassTag$.MODULE$.Int(), BUFFER, BUFFER)
        .setKeyOrdering(scala.math.Ordering$.MODULE$.comparatorToOrdering(java.util.Comparator.naturalOrder()))
        .setSerializer(new ChunkSerializer());
    Kept kept = new Kept(shuffled.toJavaRDD().mapPartitions(new Order(buckets, joined, ends)).rdd());
    kept.setName(name).persist(StorageLevel$.MODULE$.DISK_ONLY());
    return new JavaRDD(new Files(kept), BYTES);
  }

  /** What each partition of blocks holds: rows to train on, rows held out, and a checksum of all bytes in their order. It makes them. */
  public static List counted(JavaRDD kept) {
    return kept.mapPartitions(new Count()).collect();
  }

  /** Rows to chunks by bucket: worker, held out or not, highest bits of the key. */
  public static class Split implements org.apache.spark.api.java.function.PairFlatMapFunction {
    private final int workers;
    private final int buckets;
    private final int size;  // of a row
    private final long seed;
    private final int drawn;

    public Split(int workers, int buckets, int size, long seed, int drawn) {
      this.workers = workers;
      this.buckets = buckets;
      this.size = size;
      this.seed = seed;
      this.drawn = drawn;
    }

    public Iterator call(Object rows) {
      return new Chunks(this, (Iterator) rows);
    }
  }

  public static class Chunks implements Iterator {
    private final Split how;
    private final Iterator rows;
    private final byte[][] held;
    private final int[] sizes;
    private final int full;  // bytes of a chunk
    private int ready = -1;  // the place of the chunk that goes next, whose array is filled again after it went
    private int rest;  // after the last row: the next place whose chunk, however small, goes

    public Chunks(Split how, Iterator rows) {
      this.how = how;
      this.rows = rows;
      held = new byte[2 * how.workers * how.buckets][];
      sizes = new int[held.length];
      full = Math.max(1, Math.min(CHUNK, CHUNKS / held.length) / how.size) * how.size;
    }

    public boolean hasNext() {
      while (ready < 0 && rows.hasNext()) add((UnsafeRow) rows.next());
      for (; ready < 0 && rest < held.length; rest++) if (sizes[rest] > 0) ready = rest;
      return ready >= 0;
    }

    public Object next() {
      Tuple2 chunk = new Tuple2(Integer.valueOf(ready), java.nio.ByteBuffer.wrap(held[ready], 0, sizes[ready]));
      sizes[ready] = 0;
      ready = -1;
      return chunk;
    }

    private void add(UnsafeRow given) {
      if (given.isNullAt(0)) return;
      Object row = given.getBaseObject();
      long from = given.getBaseOffset() + (given.getLong(0) >>> 32);  // of its one column: in the 8 bytes stands where its bytes lie
      long hash = XXH64.hashUnsafeBytes(row, from + 8, how.size - 8, how.seed);
      long heldOut = how.drawn < 0 ? Platform.getLong(row, from) : (hash & (1 << 30) - 1) < how.drawn ? 1 : 0;
      long key = hash & ~1L | heldOut;
      int worker = (int) Math.floorMod(key >> 30, (long) how.workers);
      int bucket = (int) (((key >>> 33) * how.buckets) >>> 31);
      int place = (2 * worker + (int) (key & 1)) * how.buckets + bucket;
      if (held[place] == null) held[place] = new byte[full];
      Encoder.copy(row, from, held[place], sizes[place], how.size);
      Platform.putLong(held[place], Platform.BYTE_ARRAY_OFFSET + sizes[place], key);
      sizes[place] += how.size;
      if (sizes[place] == full) ready = place;
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

  /** A worker's chunks, by bucket, to its blocks, all in one array. `ends` says where in a row the key, label, weight, numbers and codes end. */
  public static class Order implements org.apache.spark.api.java.function.FlatMapFunction {
    private final int buckets;
    private final int joined;
    private final int[] ends;

    public Order(int buckets, int joined, int[] ends) {
      this.buckets = buckets;
      this.joined = joined;
      this.ends = ends;
    }

    public Iterator call(Object chunks) {
      return new Blocks(this, (Iterator) chunks);
    }
  }

  private static final int[] PARTS = {2, 3, 0, 1};  // of a block: numbers, codes, label, weight, by their places in a row

  public static class Blocks implements Iterator {
    private final Order how;
    private final Iterator chunks;
    private final int size;  // of a row
    private final List waiting = new ArrayList();  // the chunks of each bucket of a block, or of several where many rows are alike
    private long left;  // rows in them, and in those of `rows` that are not in a block yet
    private int place;  // of the first of these buckets
    private Tuple2 ahead;
    private byte[] rows = new byte[0];  // of a bucket
    private int[] order = new int[0];
    private byte[] block = new byte[0];  // the last one, as the largest was: new ones were what the garbage collector was busy with
    private int at;

    public Blocks(Order how, Iterator chunks) {
      this.how = how;
      this.chunks = chunks;
      size = how.ends[how.ends.length - 1];
      advance();
    }

    public boolean hasNext() {
      return left > 0 || ahead != null;
    }

    private void advance() {
      ahead = chunks.hasNext() ? (Tuple2) chunks.next() : null;
    }

    private int bucket() {
      return ahead == null ? -1 : ((Integer) ahead._1()).intValue();
    }

    public Object next() {
      if (left == 0) gather();
      int n = (int) Math.min(left, Math.max(1, MOST / size));
      int length = Math.addExact(HEAD, Math.multiplyExact(n, size - how.ends[0]));
      if (block.length < length) block = new byte[length];
      java.nio.ByteBuffer head = java.nio.ByteBuffer.wrap(block).order(java.nio.ByteOrder.LITTLE_ENDIAN);
      head.putInt(place / (2 * how.buckets)).putInt(place / how.buckets % 2).putInt(n).putInt(0);  // worker, held out, rows
      int[] filled = new int[PARTS.length];
      for (int i = 0, begin = HEAD; i < PARTS.length; i++) {
        int bytes = n * (how.ends[PARTS[i] + 1] - how.ends[PARTS[i]]);
        head.putInt(bytes);
        filled[i] = begin;
        begin += bytes;
      }
      for (int wanted = n; wanted > 0;) {
        if (at == order.length) load((List) waiting.remove(0));
        int taken = Math.min(wanted, order.length - at);
        put(taken, filled);
        wanted -= taken;
      }
      left -= n;
      return java.nio.ByteBuffer.wrap(block, 0, length);
    }

    private void gather() {
      place = bucket();
      while (ahead != null && bucket() / how.joined == place / how.joined) {
        List one = new ArrayList();
        int bucket = bucket();
        for (; bucket() == bucket; advance()) {
          one.add(ahead._2());
          left += ((java.nio.ByteBuffer) ahead._2()).remaining() / size;
        }
        waiting.add(one);
      }
    }

    private void load(List chunks) {
      int total = 0;
      for (Object chunk : chunks) total = Math.addExact(total, ((java.nio.ByteBuffer) chunk).remaining());
      if (rows.length < total) rows = new byte[total];
      java.nio.ByteBuffer filled = java.nio.ByteBuffer.wrap(rows);
      for (Object chunk : chunks) filled.put((java.nio.ByteBuffer) chunk);
      order = ordered(rows, total, size);
      at = 0;
    }

    /** The next rows of the bucket, each part of them where the block is filled up to. */
    private void put(int count, int[] filled) {
      for (int i = 0; i < PARTS.length; i++) {
        int from = how.ends[PARTS[i]], width = how.ends[PARTS[i] + 1] - from;
        if (width == 0) continue;
        for (int k = at; k < at + count; k++, filled[i] += width) System.arraycopy(rows, order[k] * size + from, block, filled[i], width);
      }
      at += count;
    }
  }

  /**
   * The places of rows in the order of their keys as unsigned numbers, then of their bytes. A radix sort by the highest 32 bits, which tell
   * hashes of a block's rows apart but for a few.
   */
  public static int[] ordered(byte[] rows, int length, int size) {
    int n = length / size;
    int[] order = new int[n], other = new int[n], high = new int[n];
    for (int i = 0; i < n; i++) {
      order[i] = i;
      high[i] = (int) (Platform.getLong(rows, Platform.BYTE_ARRAY_OFFSET + (long) i * size) >>> 32);
    }
    for (int shift = 0; shift < 32; shift += DIGIT) {  // from the lowest digit
      int[] starts = new int[(1 << DIGIT) + 1];
      for (int i = 0; i < n; i++) starts[(high[i] >>> shift & MASK) + 1]++;
      for (int i = 0; i < 1 << DIGIT; i++) starts[i + 1] += starts[i];
      for (int i = 0; i < n; i++) other[starts[high[order[i]] >>> shift & MASK]++] = order[i];
      int[] swapped = order;
      order = other;
      other = swapped;
    }
    for (int i = 1; i < n; i++) {  // those that the bits do not tell apart
      int one = order[i], j = i;
      for (; j > 0 && high[order[j - 1]] == high[one] && compare(rows, size, order[j - 1], one) > 0; j--) order[j] = order[j - 1];
      order[j] = one;
    }
    return order;
  }

  private static final int DIGIT = 11, MASK = (1 << DIGIT) - 1;

  private static int compare(byte[] rows, int size, int a, int b) {
    long first = Platform.getLong(rows, Platform.BYTE_ARRAY_OFFSET + (long) a * size);
    long second = Platform.getLong(rows, Platform.BYTE_ARRAY_OFFSET + (long) b * size);
    if (first != second) return Long.compareUnsigned(first, second);
    return Arrays.compareUnsigned(rows, a * size, (a + 1) * size, rows, b * size, (b + 1) * size);
  }

  /** Blocks as Spark keeps them: where they lie, what they take, and when they go, its block managers know as of any RDD. */
  public static class Kept extends RDD {
    public Kept(RDD blocks) {
      super(blocks, BUFFER);
    }

    public org.apache.spark.Partition[] getPartitions() {
      return firstParent(BUFFER).partitions();
    }

    public scala.collection.Iterator compute(org.apache.spark.Partition split, org.apache.spark.TaskContext context) {
      return firstParent(BUFFER).iterator(split, context);
    }
  }

  /**
   * What is kept, as files that workers map into their memory: in a pickle for Python stands a block's path, or where Spark encrypts what it
   * writes the block. A partition is made where it is asked for and not there, in no executor's heap; beside its blocks, as the one that
   * stands for the partition, lies their number.
   */
  public static class Files extends RDD {
    private static final int PIECE = 1 << 20;

    private final RDD kept;

    public Files(RDD kept) {
      super(kept, BYTES);
      this.kept = kept;
    }

    public org.apache.spark.Partition[] getPartitions() {
      return kept.partitions();
    }

    public scala.collection.Iterator compute(org.apache.spark.Partition split, org.apache.spark.TaskContext context) {
      int count = there(split);
      if (count < 0) {
        scala.collection.Iterator blocks = kept.compute(split, context);
        for (count = 0; blocks.hasNext(); count++) put(id(split, count + 1), (java.nio.ByteBuffer) blocks.next());
        put(id(split, 0), (java.nio.ByteBuffer) java.nio.ByteBuffer.allocate(4).putInt(count).flip());
      }
      List told = new ArrayList();
      for (int i = 1; i <= count; i++) told.add(told(id(split, i)));
      return scala.jdk.javaapi.CollectionConverters.asScala(told.iterator());
    }

    public RDD unpersist(boolean blocking) {
      kept.unpersist(blocking);
      return this;
    }

    private static BlockManager manager() {
      try {
        Class environment = Class.forName("org.apache.spark.SparkEnv");
        MethodHandles.Lookup lookup = MethodHandles.publicLookup();
        Object here = lookup.findStatic(environment, "get", MethodType.methodType(environment)).invokeWithArguments(new Object[0]);
        MethodHandle manager = lookup.findVirtual(environment, "blockManager", MethodType.methodType(BlockManager.class));
        return (BlockManager) manager.invokeWithArguments(new Object[] {here});
      } catch (Throwable e) {
        throw new IllegalStateException(e);
      }
    }

    private RDDBlockId id(org.apache.spark.Partition split, int block) {
      return new RDDBlockId(kept.id(), Math.addExact(split.index(), Math.multiplyExact(block, getNumPartitions())));
    }

    /** The number of a partition's blocks where all of them are here, if need be from elsewhere; else -1. */
    private int there(org.apache.spark.Partition split) {
      if (!isHere(id(split, 0))) return -1;
      int count = bytes(id(split, 0)).getInt(0);
      for (int i = 1; i <= count; i++) if (!isHere(id(split, i))) return -1;
      return count;
    }

    private static boolean isHere(RDDBlockId id) {
      if (manager().diskStore().contains(id)) return true;
      scala.Option found = manager().getRemoteBytes(id);
      return found.isDefined() && put(id, ((ChunkedByteBuffer) found.get()).toByteBuffer());
    }

    private static boolean put(RDDBlockId id, java.nio.ByteBuffer bytes) {
      // Written piece by piece through a small buffer outside the heap that the thread keeps; else one as large as the block.
      java.nio.ByteBuffer[] pieces = new java.nio.ByteBuffer[Math.max(1, (bytes.remaining() + PIECE - 1) / PIECE)];
      for (int i = 0; i < pieces.length; i++) {
        pieces[i] = (java.nio.ByteBuffer) ((java.nio.ByteBuffer) bytes.duplicate().position(i * PIECE)).slice();
        if (pieces[i].remaining() > PIECE) pieces[i].limit(PIECE);
      }
      BlockManager manager = manager();
      return manager.putBytes(id, new ChunkedByteBuffer(pieces), StorageLevel$.MODULE$.DISK_ONLY(), true, manager.putBytes$default$5(),
          manager.putBytes$default$6(), BYTES);
    }

    private static java.nio.ByteBuffer bytes(RDDBlockId id) {
      return manager().diskStore().getBytes(id).toByteBuffer();
    }

    private static byte[] told(RDDBlockId id) {
      boolean encrypted = manager().serializerManager().encryptionEnabled();
      byte[] path = manager().diskBlockManager().getFile(id).getAbsolutePath().getBytes(java.nio.charset.StandardCharsets.UTF_8);
      java.nio.ByteBuffer said = encrypted ? bytes(id) : java.nio.ByteBuffer.wrap(path);
      java.nio.ByteBuffer out = java.nio.ByteBuffer.allocate(8 + said.remaining()).order(java.nio.ByteOrder.LITTLE_ENDIAN);
      out.put((byte) 0x80).put((byte) 3).put((byte) (encrypted ? 'B' : 'X')).putInt(said.remaining()).put(said).put((byte) '.');
      return out.array();
    }
  }

  public static class Count implements org.apache.spark.api.java.function.FlatMapFunction {
    public Iterator call(Object kept) throws java.io.IOException {
      long[] rows = new long[2];
      java.util.zip.CRC32 content = new java.util.zip.CRC32();
      for (Iterator all = (Iterator) kept; all.hasNext();) {
        java.nio.ByteBuffer block = block((byte[]) all.next()).order(java.nio.ByteOrder.LITTLE_ENDIAN);
        rows[block.getInt(4)] += block.getInt(8);
        content.update(block);
      }
      List counts = new ArrayList();
      counts.add(new long[] {rows[0], rows[1], content.getValue()});
      return counts.iterator();
    }

    private static java.nio.ByteBuffer block(byte[] told) throws java.io.IOException {
      if (told[2] == 'B') return (java.nio.ByteBuffer) java.nio.ByteBuffer.wrap(told, 7, told.length - 8).slice();
      String path = new String(told, 7, told.length - 8, java.nio.charset.StandardCharsets.UTF_8);
      java.nio.channels.FileChannel file = java.nio.channels.FileChannel.open(java.nio.file.Paths.get(path));
      try {
        return file.map(java.nio.channels.FileChannel.MapMode.READ_ONLY, 0, file.size());
      } finally {
        file.close();
      }
    }
  }
}
