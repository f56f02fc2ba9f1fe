package dlsql;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import org.apache.spark.HashPartitioner;
import org.apache.spark.MapOutputTrackerMaster;
import org.apache.spark.ShuffleDependency;
import org.apache.spark.TaskContext;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.rdd.RDD;
import org.apache.spark.rdd.ShuffledRDD;
import org.apache.spark.serializer.JavaSerializer;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.UnsafeRow;
import org.apache.spark.sql.catalyst.expressions.XXH64;
import org.apache.spark.storage.BlockManager;
import org.apache.spark.storage.RDDBlockId;
import org.apache.spark.storage.StorageLevel$;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.util.io.ChunkedByteBuffer;
import scala.Tuple2;
import scala.reflect.ClassTag;
import scala.reflect.ClassTag$;

/**
 * Rows to blocks for training, all as bytes: packed where they are read, to runs for each worker, which puts them in order and cuts them.
 *
 * The order follows from the rows alone. A row begins with a key of 8 bytes, a hash of its other bytes whose lowest bit says whether it is
 * held out: as the row says there, or by the hash itself, so many of 2^30. A worker's rows lie by that bit, then by the key, then by their
 * bytes, whatever comes from where. So that a worker's part need not fit into memory, it is divided into buckets by the key's highest bits,
 * which are put in order one after the other; some of them, which fit into a core's cache one by one, make a block.
 */
public final class Packing {
  private static final int HEAD = 32;  // bytes before a block's rows: eight numbers, see Blocks.next
  private static final int CONTENT = 12;  // where in there the sum of its rows' hashes stands,
  private static final int SIZES = 16;  // and from where on the sizes of its parts
  private static final ClassTag BUFFER = ClassTag$.MODULE$.apply(java.nio.ByteBuffer.class);
  private static final ClassTag BYTES = ClassTag$.MODULE$.apply(byte[].class);
  private static final ClassTag RUN = ClassTag$.MODULE$.apply(Run.class);
  private static final ClassTag PAIR = ClassTag$.MODULE$.apply(Tuple2.class);
  private static final ClassTag COUNTS = ClassTag$.MODULE$.apply(long[].class);
  private static final int MOST = 64 << 20;  // bytes of a block; rows that are alike are in one bucket, however many they are
  private static final int CHUNKS = 32 << 20;  // bytes of a task's full chunks, which it writes then, and of those that it fills
  private static final int CHUNK = 1 << 16;  // that one of a bucket's chunks has at most; larger ones fell out of the cache before they were full
  private static final int ROWS = 12;  // bits of a row's place in its chunk
  private static final int FILES = 1000;  // that a task keeps open

  /**
   * Where each worker's blocks lie, a partition for each worker; see Files.
   *
   * @param columns a list in JSON: which of the columns, by their places, feed the encoder's parts.
   * @param parts another: where the parts of a row end, which are its key, labels, weight, numbers and codes.
   */
  public static JavaRDD blocks(org.apache.spark.sql.classic.Dataset rows, String columns, Encoder encoder, int workers, int buckets, int joined,
      String parts, long seed, int drawn, String name) {
    int[] ends = Language.Python.whole(parts);
    Expression packed = Encode.of(encoder, Wanted.TRUE, Language.Python.columns(rows, columns), null);
    Column[] selected = new Column[] {org.apache.spark.sql.classic.ExpressionUtils.column(packed)};
    RDD read = ((org.apache.spark.sql.classic.Dataset) rows.select(selected)).queryExecution().toRdd();
    Split split = new Split(workers, buckets, ends, seed, drawn);
    RDD runs = read.mapPartitionsInternal(split, false, PAIR);
    RDD shuffled = new ShuffledRDD(runs, new HashPartitioner(workers), ClassTag$.MODULE$.Int(), RUN, RUN)
        .setSerializer(new JavaSerializer(runs.sparkContext().conf()));
    int shuffle = ((ShuffleDependency) shuffled.dependencies().apply(0)).shuffleId();
    Kept kept = new Kept(shuffled.toJavaRDD().mapPartitions(new Order(buckets, joined, ends, shuffle)).rdd());
    split.rdd = runs.id();
    kept.setName(name).persist(StorageLevel$.MODULE$.DISK_ONLY());
    return new JavaRDD(new Files(kept, runs, shuffle), BYTES);
  }

  /** What each partition of blocks holds, see Counts, as a list of lists in JSON. It makes them. */
  public static String counted(JavaRDD blocks) {
    return Arrays.deepToString(new JavaRDD(new Counts((Files) blocks.rdd()), COUNTS).collect().toArray());
  }

  /** Forgets what blocks were made of: where one is lost with its executor, Spark packs the rows anew. */
  public static void settle(JavaRDD blocks) {
    ((Files) blocks.rdd()).settle();
  }

  /**
   * Rows to runs, of chunks by bucket: worker, held out or not, highest bits of the key. In a chunk, as in a block, the parts of the rows lie
   * apart.
   */
  public static class Split extends scala.runtime.AbstractFunction1 implements java.io.Serializable {
    private final int workers;
    private final int buckets;
    private final int[] ends;  // of the parts of a row: part p lies from ends[p - 1] to ends[p], the key is part 0
    private final long seed;
    private final int drawn;
    private int rdd;  // whose blocks the runs are

    public Split(int workers, int buckets, int[] ends, long seed, int drawn) {
      this.workers = workers;
      this.buckets = buckets;
      this.ends = ends;
      this.seed = seed;
      this.drawn = drawn;
    }

    public Object apply(Object rows) {
      return new Runs(this, (scala.collection.Iterator) rows);
    }
  }

  /** Runs, with their workers. */
  public static class Runs extends scala.collection.AbstractIterator {
    private final Split how;
    private final scala.collection.Iterator rows;
    private final PackColumns.Rows slices;  // these, where they are packed out of columns: many at once; else null
    private byte[] slice = new byte[0];
    private long[] from = new long[0];  // where rows begin
    private byte[][] chunks;  // that they go to
    private int[] slots;  // their places there
    private final int[] ends;
    private final int size;  // of a row
    private final byte[][] filled;  // the chunk of each bucket that rows go to
    private final int[] counts;  // of rows in it
    private final List[] full;  // those that have no place left
    private final int capacity;  // of a chunk, in rows
    private final java.util.ArrayDeque spare = new java.util.ArrayDeque();  // chunks to fill again
    private int held;  // bytes of full ones
    private final java.util.ArrayDeque ready = new java.util.ArrayDeque();

    public Runs(Split how, scala.collection.Iterator rows) {
      this.how = how;
      this.rows = rows;
      slices = rows instanceof PackColumns.Rows ? (PackColumns.Rows) rows : null;
      ends = how.ends;
      size = ends[ends.length - 1];
      filled = new byte[2 * how.workers * how.buckets][];
      counts = new int[filled.length];
      full = new List[filled.length];
      capacity = Math.max(1, Math.min(1 << ROWS, Math.min(CHUNK, CHUNKS / filled.length) / size));
    }

    public boolean hasNext() {
      while (ready.isEmpty() && held < CHUNKS && (slices == null ? row() : slice())) {}
      if (ready.isEmpty()) write();
      return !ready.isEmpty();
    }

    public Object next() {
      return ready.remove();
    }

    private boolean row() {
      if (!rows.hasNext()) return false;
      UnsafeRow given = (UnsafeRow) rows.next();
      if (given.isNullAt(0)) return true;
      grow(1);
      from[0] = given.getBaseOffset() + (given.getLong(0) >>> 32);  // of its one column: in the 8 bytes stands where its bytes lie
      add(given.getBaseObject(), 1);
      return true;
    }

    private boolean slice() {
      slices.used();
      if (!slices.choose(Integer.MAX_VALUE)) return false;
      int n = slices.count(), bytes = Math.multiplyExact(n, size);
      if (slice.length < bytes) slice = new byte[bytes];
      boolean[] fits = slices.pack(0, slice, 0);
      grow(n);
      int kept = 0;
      for (int i = 0; i < n; i++) if (fits[i]) from[kept++] = Platform.BYTE_ARRAY_OFFSET + (long) i * size;
      add(slice, kept);
      return true;
    }

    private void grow(int n) {
      if (from.length >= n) return;
      from = new long[n];
      chunks = new byte[n][];
      slots = new int[n];
    }

    /** Rows, by where they begin; step by step for all of them, so that the core waits for the memory of many at once. */
    private void add(Object rows, int n) {
      for (int i = 0; i < n; i++) place(i, XXH64.hashUnsafeBytes(rows, from[i] + 8, size - 8, how.seed), rows);
      for (int part = 1; part < ends.length; part++) {
        int begin = ends[part - 1], width = ends[part] - begin;
        for (int i = 0; i < n && width > 0; i++) Values.copy(rows, from[i] + begin, chunks[i], capacity * begin + slots[i] * width, width);
      }
    }

    private void place(int i, long hash, Object rows) {
      long heldOut = how.drawn < 0 ? Platform.getLong(rows, from[i]) : (hash & (1 << 30) - 1) < how.drawn ? 1 : 0;
      long key = hash & ~1L | heldOut;
      int worker = (int) Math.floorMod(key >> 30, (long) how.workers);
      int bucket = (int) (((key >>> 33) * how.buckets) >>> 31);
      int place = (2 * worker + (int) (key & 1)) * how.buckets + bucket, n = counts[place]++;
      if (n == 0) filled[place] = spare.isEmpty() ? new byte[capacity * size] : (byte[]) spare.remove();
      byte[] chunk = filled[place];
      Platform.putLong(chunk, Platform.BYTE_ARRAY_OFFSET + 8L * n, key);
      chunks[i] = chunk;
      slots[i] = n;
      if (n + 1 < capacity) return;
      if (full[place] == null) full[place] = new ArrayList();
      full[place].add(new Run.Chunk(place, chunk, 0, capacity));
      counts[place] = 0;
      held += chunk.length;
    }

    /** A run for each worker of what is held. */
    private void write() {
      for (int worker = 0, place = 0; worker < how.workers; worker++) {
        List chunks = new ArrayList();
        for (int end = place + 2 * how.buckets; place < end; place++) {
          if (full[place] != null) chunks.addAll(full[place]);
          if (counts[place] > 0) chunks.add(joined(place));
          full[place] = null;
          counts[place] = 0;
        }
        if (chunks.isEmpty()) continue;
        Run run = new Run(how.rdd, size, chunks);
        ready.add(new Tuple2(Integer.valueOf(worker), run));
        if (!run.isHeld()) for (Object chunk : chunks) if (((Run.Chunk) chunk).rows == capacity) spare.add(((Run.Chunk) chunk).bytes);
      }
      held = 0;
    }

    /** A chunk that is not full, in an array of its own: its parts closer together. */
    private Run.Chunk joined(int place) {
      int n = counts[place];
      byte[] chunk = filled[place], to = new byte[n * size];
      for (int part = 0, begin = 0; part < ends.length; begin = ends[part++]) {
        System.arraycopy(chunk, capacity * begin, to, n * begin, n * (ends[part] - begin));
      }
      spare.add(chunk);
      return new Run.Chunk(place, to, 0, n);
    }
  }

  /** A worker's runs to its blocks, all in one array. */
  public static class Order implements org.apache.spark.api.java.function.FlatMapFunction {
    private final int buckets;
    private final int joined;
    private final int[] ends;
    private final int shuffle;  // of the runs

    public Order(int buckets, int joined, int[] ends, int shuffle) {
      this.buckets = buckets;
      this.joined = joined;
      this.ends = ends;
      this.shuffle = shuffle;
    }

    public Iterator call(Object runs) {
      return new Blocks(this, (Iterator) runs);
    }
  }

  private static final int[] PARTS = {3, 4, 1, 2};  // of a block: numbers, codes, label, weight, by their places in a row

  public static class Blocks implements Iterator, org.apache.spark.util.TaskCompletionListener {
    private final Order how;
    private final List runs = new ArrayList();
    private final int size;  // of a row
    private long left;  // rows that are not in a block yet, of some buckets, which make a block, or several where many rows are alike
    private int place;  // of the first of these buckets
    private Bucket rows;
    private byte[] block = new byte[0];  // the last one, as the largest was: new ones were what the garbage collector was busy with
    private int at;

    public Blocks(Order how, Iterator runs) {
      this.how = how;
      size = how.ends[how.ends.length - 1];
      rows = new Bucket(new ArrayList(), how.ends);
      TaskContext.get().addTaskCompletionListener(this);
      while (runs.hasNext()) this.runs.add(((Tuple2) runs.next())._2());
      for (Object run : this.runs) ((Run) run).open(how.shuffle, this.runs.size() <= FILES);
    }

    public void onTaskCompletion(TaskContext context) {
      for (Object run : runs) ((Run) run).close();
    }

    public boolean hasNext() {
      return left > 0 || bucket() < Integer.MAX_VALUE;
    }

    /** The next one that a run has rows of. */
    private int bucket() {
      int first = Integer.MAX_VALUE;
      for (Object run : runs) first = Math.min(first, ((Run) run).bucket());
      return first;
    }

    public Object next() {
      if (left == 0) gather();
      int n = (int) Math.min(left, Math.max(1, MOST / size));
      int length = Math.addExact(HEAD, Math.multiplyExact(n, size - how.ends[0]));
      if (block.length < length) block = new byte[Math.addExact(length, length >> 4)];  // the next may be a little larger
      java.nio.ByteBuffer head = java.nio.ByteBuffer.wrap(block).order(java.nio.ByteOrder.LITTLE_ENDIAN);
      head.putInt(place / (2 * how.buckets)).putInt(place / how.buckets % 2).putInt(n);  // worker, held out, rows
      int content = 0;
      int[] filled = new int[PARTS.length];
      head.position(SIZES);
      for (int i = 0, begin = HEAD; i < PARTS.length; i++) {
        int bytes = n * width(PARTS[i]);
        head.putInt(bytes);
        filled[i] = begin;
        begin += bytes;
      }
      for (int wanted = n; wanted > 0;) {
        if (at == rows.order.length) {
          rows = new Bucket(chunks(), how.ends);
          at = 0;
        }
        int taken = Math.min(wanted, rows.order.length - at);
        rows.take(at, taken, block, filled);
        for (int i = 0; i < taken; i++) content += rows.hash(at + i);
        at += taken;
        wanted -= taken;
      }
      head.putInt(CONTENT, content);
      left -= n;
      return java.nio.ByteBuffer.wrap(block, 0, length);
    }

    private int width(int part) {
      return how.ends[part] - how.ends[part - 1];
    }

    private void gather() {
      TaskContext.get().killTaskIfInterrupted();
      place = bucket();
      for (Object run : runs) left += ((Run) run).before((place / how.joined + 1) * how.joined);
    }

    private List chunks() {
      List chunks = new ArrayList();
      int bucket = bucket();
      for (Object run : runs) if (((Run) run).bucket() == bucket) ((Run) run).read(chunks);
      return chunks;
    }
  }

  /**
   * The chunks of a bucket, and the places of its rows in the order of their keys as unsigned numbers, then of their bytes. A radix sort by the
   * highest 32 bits, which tell hashes of a block's rows apart but for a few.
   */
  private static final class Bucket {
    private static final int DIGIT = 11, MASK = (1 << DIGIT) - 1;

    private final Run.Chunk[] chunks;
    private final int[] ends;
    final long[] order;  // of each row: the highest bits of its key, its chunk, its place there

    Bucket(List given, int[] ends) {
      this.ends = ends;
      chunks = (Run.Chunk[]) given.toArray(new Run.Chunk[0]);
      if (chunks.length > 1 << 32 - ROWS) throw new IllegalStateException("too many chunks of a bucket: " + chunks.length);
      int n = 0;
      for (Run.Chunk chunk : chunks) n = Math.addExact(n, chunk.rows);
      long[] rows = new long[n];
      for (int chunk = 0, i = 0; chunk < chunks.length; chunk++) {
        for (int row = 0; row < chunks[chunk].rows; row++) rows[i++] = key(chunk, row) & -1L << 32 | (long) chunk << ROWS | row;
      }
      order = ordered(rows);
    }

    private long key(int chunk, int row) {
      return Platform.getLong(chunks[chunk].bytes, Platform.BYTE_ARRAY_OFFSET + chunks[chunk].from + 8L * row);
    }

    private long[] ordered(long[] rows) {
      long[] other = new long[rows.length];
      for (int shift = 32; shift < 64; shift += DIGIT) {  // from the lowest digit
        int[] starts = new int[(1 << DIGIT) + 1];
        for (long row : rows) starts[((int) (row >>> shift) & MASK) + 1]++;
        for (int i = 0; i < 1 << DIGIT; i++) starts[i + 1] += starts[i];
        for (long row : rows) other[starts[(int) (row >>> shift) & MASK]++] = row;
        long[] swapped = rows;
        rows = other;
        other = swapped;
      }
      for (int i = 1; i < rows.length; i++) {  // those that the bits do not tell apart
        long one = rows[i];
        int j = i;
        for (; j > 0 && rows[j - 1] >>> 32 == one >>> 32 && compare(rows[j - 1], one) > 0; j--) rows[j] = rows[j - 1];
        rows[j] = one;
      }
      return rows;
    }

    private static int chunk(long row) {
      return (int) row >>> ROWS;
    }

    private static int place(long row) {
      return (int) row & (1 << ROWS) - 1;
    }

    /** Bits of the key of a row, by its place in the order. */
    int hash(int place) {
      return (int) (order[place] >>> 32);
    }

    private byte[] bytes(long row) {
      return chunks[chunk(row)].bytes;
    }

    /** Where a part of a row begins in its chunk. */
    private int begin(long row, int part) {
      return chunks[chunk(row)].from + chunks[chunk(row)].rows * ends[part - 1] + place(row) * (ends[part] - ends[part - 1]);
    }

    private int compare(long one, long other) {
      int found = Long.compareUnsigned(key(chunk(one), place(one)), key(chunk(other), place(other)));
      for (int part = 1; found == 0 && part < ends.length; part++) {
        int width = ends[part] - ends[part - 1], a = begin(one, part), b = begin(other, part);
        found = Arrays.compareUnsigned(bytes(one), a, a + width, bytes(other), b, b + width);
      }
      return found;
    }

    /** The parts of so many rows, from one place in their order on, each to where its own stand. */
    void take(int from, int count, byte[] to, int[] at) {
      for (int k = 0; k < PARTS.length; k++) {
        int begin = ends[PARTS[k] - 1], width = ends[PARTS[k]] - begin;
        for (int i = from; i < from + count && width > 0; i++, at[k] += width) {
          Run.Chunk chunk = chunks[chunk(order[i])];
          Values.copy(chunk.bytes, Platform.BYTE_ARRAY_OFFSET + chunk.from + chunk.rows * begin + place(order[i]) * width, to, at[k], width);
        }
      }
    }
  }

  /** What is made of the partitions of another, one by one. */
  public abstract static class Derived extends RDD {
    Derived(RDD from, ClassTag type) {
      super(from, type);
    }

    public org.apache.spark.Partition[] getPartitions() {
      return firstParent(BUFFER).partitions();
    }
  }

  /** Blocks as Spark keeps them: where they lie, what they take, and when they go, its block managers know as of any RDD. */
  public static class Kept extends Derived {
    public Kept(RDD blocks) {
      super(blocks, BUFFER);
    }

    public scala.collection.Iterator compute(org.apache.spark.Partition split, org.apache.spark.TaskContext context) {
      return firstParent(BUFFER).iterator(split, context);
    }
  }

  /**
   * What is kept, as files that workers map into their memory: in a pickle for Python stands a block's path, or where Spark encrypts what it
   * writes the block. A partition is made where it is asked for and not there, in no executor's heap; beside its blocks, as the one that
   * stands for the partition, lies their number, and what Counts tells of them.
   */
  public static class Files extends Derived {
    private static final int PIECE = 1 << 20;

    private final RDD kept;
    private final RDD runs;
    private final int shuffle;  // of these

    public Files(RDD kept, RDD runs, int shuffle) {
      super(kept, BYTES);
      this.kept = kept;
      this.runs = runs;
      this.shuffle = shuffle;
    }

    public scala.collection.Iterator compute(org.apache.spark.Partition split, org.apache.spark.TaskContext context) {
      List told = new ArrayList();
      for (int i = 1, count = made(split, context); i <= count; i++) told.add(told(id(split, i)));
      return scala.jdk.javaapi.CollectionConverters.asScala(told.iterator());
    }

    /** The number of a partition's blocks, which are here then. */
    private int made(org.apache.spark.Partition split, org.apache.spark.TaskContext context) {
      int count = there(split);
      if (count < 0) {
        long[] rows = new long[2], content = new long[2];
        scala.collection.Iterator blocks = kept.compute(split, context);
        for (count = 0; blocks.hasNext(); count++) {
          java.nio.ByteBuffer block = ((java.nio.ByteBuffer) blocks.next()).order(java.nio.ByteOrder.LITTLE_ENDIAN);
          rows[block.getInt(4)] += block.getInt(8);
          content[block.getInt(4)] += block.getInt(CONTENT);
          put(id(split, count + 1), block);
        }
        java.nio.ByteBuffer all = java.nio.ByteBuffer.allocate(36).putInt(count);
        all.putLong(rows[0]).putLong(rows[1]).putLong(content[0]).putLong(content[1]);
        put(id(split, 0), (java.nio.ByteBuffer) all.flip());
      }
      return count;
    }

    void settle() {
      ((MapOutputTrackerMaster) Storage.outputs()).unregisterAllMapAndMergeOutput(shuffle);
      runs.unpersist(false);
    }

    public RDD unpersist(boolean blocking) {
      runs.unpersist(blocking);  // of blocks that were never made, or made again
      kept.unpersist(blocking);
      return this;
    }

    long[] counts(org.apache.spark.Partition split, org.apache.spark.TaskContext context) {
      made(split, context);
      java.nio.ByteBuffer all = bytes(id(split, 0));
      return new long[] {all.getLong(4), all.getLong(12), all.getLong(20), all.getLong(28)};
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
      if (Storage.manager().diskStore().contains(id)) return true;
      scala.Option found = Storage.manager().getRemoteBytes(id);
      return found.isDefined() && put(id, ((ChunkedByteBuffer) found.get()).toByteBuffer());
    }

    private static boolean put(RDDBlockId id, java.nio.ByteBuffer bytes) {
      // Written piece by piece through a small buffer outside the heap that the thread keeps; else one as large as the block.
      java.nio.ByteBuffer[] pieces = new java.nio.ByteBuffer[Math.max(1, (bytes.remaining() + PIECE - 1) / PIECE)];
      for (int i = 0; i < pieces.length; i++) {
        pieces[i] = (java.nio.ByteBuffer) ((java.nio.ByteBuffer) bytes.duplicate().position(i * PIECE)).slice();
        if (pieces[i].remaining() > PIECE) pieces[i].limit(PIECE);
      }
      BlockManager manager = Storage.manager();
      if (manager.getStatus(id).isDefined()) manager.removeBlock(id, true);  // of an attempt that failed, or whose file is gone; Spark would keep it
      return Storage.put(manager, id, pieces, StorageLevel$.MODULE$.DISK_ONLY(), true);
    }

    private static java.nio.ByteBuffer bytes(RDDBlockId id) {
      return Storage.manager().diskStore().getBytes(id).toByteBuffer();
    }

    private static byte[] told(RDDBlockId id) {
      boolean encrypted = Storage.manager().serializerManager().encryptionEnabled();
      byte[] path = Storage.manager().diskBlockManager().getFile(id).getAbsolutePath().getBytes(java.nio.charset.StandardCharsets.UTF_8);
      java.nio.ByteBuffer said = encrypted ? bytes(id) : java.nio.ByteBuffer.wrap(path);
      java.nio.ByteBuffer out = java.nio.ByteBuffer.allocate(8 + said.remaining()).order(java.nio.ByteOrder.LITTLE_ENDIAN);
      out.put((byte) 0x80).put((byte) 3).put((byte) (encrypted ? 'B' : 'X')).putInt(said.remaining()).put(said).put((byte) '.');
      return out.array();
    }
  }

  /** Of each partition of blocks: rows to train on, rows held out, and of both the sum of their hashes, which no order changes. */
  public static class Counts extends Derived {
    private final Files blocks;

    public Counts(Files blocks) {
      super(blocks, COUNTS);
      this.blocks = blocks;
    }

    public scala.collection.Iterator compute(org.apache.spark.Partition split, org.apache.spark.TaskContext context) {
      List one = java.util.Collections.singletonList(blocks.counts(split, context));
      return scala.jdk.javaapi.CollectionConverters.asScala(one.iterator());
    }
  }
}
