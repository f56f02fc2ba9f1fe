package dlsql;

import java.io.DataInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.commons.io.IOUtils;
import org.apache.spark.TaskContext;
import org.apache.spark.memory.MemoryManager;
import org.apache.spark.network.BlockTransferService;
import org.apache.spark.shuffle.FetchFailedException;
import org.apache.spark.storage.BlockManager;
import org.apache.spark.storage.BlockManagerId;
import org.apache.spark.storage.RDDBlockId;
import org.apache.spark.storage.StorageLevel;
import org.apache.spark.storage.StorageLevel$;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.util.io.ChunkedByteBuffer;
import scala.Option;
import scala.Tuple2;

/**
 * Rows of one worker that a task packed: chunks, by bucket, in a block that its executor keeps. Spark's shuffle says which, and that one is
 * gone, so that its task runs again. It does not carry the rows: in its streams they were copied six times, compressed in vain and summed up
 * twice, and all of a worker's were read into memory before the first bucket was put in order. That was a third of what packing took.
 */
public final class Run implements java.io.Serializable {
  private static final AtomicInteger NEXT = new AtomicInteger();  // number of a block of this process

  private final int size;  // of a row
  private final int[] buckets;  // of each chunk
  private final int[] rows;
  private final RDDBlockId block;
  private final BlockManagerId where;
  private final long task = TaskContext.get().taskAttemptId();
  private final int partition = TaskContext.get().partitionId();
  private transient BlockManager manager = Storage.manager();
  private transient int shuffle;
  private transient boolean stays;
  private transient RDDBlockId here;
  private transient DataInputStream open;
  private transient long position;
  private transient int next;  // chunk
  private transient byte[] bytes;  // of those read last

  /** Rows as they lie in memory, parts apart. */
  static final class Chunk {
    final int bucket;
    final byte[] bytes;
    final int from;
    final int rows;

    Chunk(int bucket, byte[] bytes, int from, int rows) {
      this.bucket = bucket;
      this.bytes = bytes;
      this.from = from;
      this.rows = rows;
    }
  }

  /** Keeps chunks of rows of so many bytes, in memory where there is plenty, as a block of an RDD. */
  Run(int rdd, int size, List chunks) {
    this.size = size;
    where = manager.blockManagerId();
    buckets = new int[chunks.size()];
    rows = new int[chunks.size()];
    ByteBuffer[] pieces = new ByteBuffer[chunks.size()];
    for (int i = 0; i < pieces.length; i++) {
      Chunk chunk = (Chunk) chunks.get(i);
      buckets[i] = chunk.bucket;
      rows[i] = chunk.rows;
      pieces[i] = ByteBuffer.wrap(chunk.bytes, chunk.from, chunk.rows * size);
    }
    block = put(rdd, pieces);
  }

  private RDDBlockId put(int rdd, ByteBuffer[] pieces) {
    RDDBlockId id = new RDDBlockId(rdd, NEXT.getAndIncrement());
    MemoryManager memory = Storage.memory();  // of which half is left to others: what they have cached stays there
    boolean fits = memory.onHeapStorageMemoryUsed() + length(0, rows.length) <= memory.maxOnHeapStorageMemory() / 2;
    StorageLevel level = fits ? StorageLevel$.MODULE$.MEMORY_AND_DISK_SER() : StorageLevel$.MODULE$.DISK_ONLY();
    if (Storage.put(manager, id, pieces, level, false)) return id;
    throw new Language.Failure("DLSQL_STORAGE", "58030", "Could not write " + id + ".");
  }

  /** Whether memory holds it, and with it the chunks that it was made of. */
  boolean isHeld() {
    return manager.memoryStore().contains(block);
  }

  /**
   * Fetches it, where it is another executor's.
   *
   * @param shuffle which brought it.
   * @param stays whether its file may stay open from one bucket to the next.
   */
  void open(int shuffle, boolean stays) {
    this.shuffle = shuffle;
    this.stays = stays;
    manager = Storage.manager();
    bytes = new byte[0];
    here = where.equals(manager.blockManagerId()) ? block : put(block.rddId(), pieces(fetched()));
  }

  private ByteBuffer[] pieces(ByteBuffer all) {
    ByteBuffer[] pieces = new ByteBuffer[rows.length];
    for (int i = 0; i < rows.length; i++) {
      pieces[i] = (ByteBuffer) all.slice().limit(rows[i] * size);
      all.position(all.position() + rows[i] * size);
    }
    return pieces;
  }

  private ByteBuffer fetched() {
    BlockTransferService service = manager.blockTransferService();
    try {
      return service.fetchBlockSync(where.host(), where.port(), where.executorId(), block.name(), null).nioByteBuffer();
    } catch (Exception e) {
      throw lost(e);
    }
  }

  /** The bucket of the next chunk; after the last one, a number above all of them. */
  int bucket() {
    return next < buckets.length ? buckets[next] : Integer.MAX_VALUE;
  }

  /** Rows that come before a bucket. */
  long before(int bucket) {
    long n = 0;
    for (int i = next; i < buckets.length && buckets[i] < bucket; i++) n += rows[i];
    return n;
  }

  /** Adds the chunks of the next bucket to a list; those that were read from disk are there until the next call. */
  void read(List chunks) {
    int first = next;
    for (int bucket = bucket(); bucket() == bucket;) next++;
    Option held = manager.memoryStore().getBytes(here);  // until Spark needs the memory
    if (held.isDefined()) {
      ByteBuffer[] pieces = ((ChunkedByteBuffer) held.get()).chunks();
      for (int i = first; i < next; i++) chunks.add(chunk(i, pieces[i].array(), pieces[i].arrayOffset() + pieces[i].position()));
    } else {
      load(first);
      for (int i = first, from = 0; i < next; from += rows[i++] * size) chunks.add(chunk(i, bytes, from));
    }
  }

  private Chunk chunk(int i, byte[] bytes, int from) {
    return new Chunk(buckets[i], bytes, from, rows[i]);
  }

  /** Reads the chunks from one on up to the next. */
  private void load(int first) {
    long from = length(0, first);
    int length = Math.toIntExact(length(first, next));
    if (bytes.length < length) bytes = new byte[length];
    try {
      if (open == null) {
        open = new DataInputStream(manager.diskStore().getBytes(here).toInputStream());
        position = 0;
      }
      open.skipNBytes(from - position);
      open.readFully(bytes, 0, length);
    } catch (IOException e) {
      throw lost(e);
    }
    position = from + length;
    if (!stays || next == buckets.length) stop();
  }

  private long length(int from, int to) {
    long n = 0;
    for (int i = from; i < to; i++) n += rows[i];
    return n * size;
  }

  /** Ends reading, if need be in the middle. */
  void close() {
    stop();
    if (here != null && !here.equals(block)) manager.removeBlock(here, false);
  }

  private void stop() {
    IOUtils.closeQuietly(open);
    open = null;
  }

  private RuntimeException lost(Exception cause) {
    TaskContext context = TaskContext.get();
    context.killTaskIfInterrupted();
    String said = "Packed rows are gone: " + block;
    Platform.throwException(new FetchFailedException(told(context), shuffle, task, partition, context.partitionId(), said, cause));
    return null;
  }

  /** The executor that Spark has this run of, which is another one where the shuffle's files were moved. */
  private BlockManagerId told(TaskContext context) {
    int reader = context.partitionId();
    scala.collection.Iterator found = Storage.outputs().getMapSizesByExecutorId(shuffle, partition, partition + 1, reader, reader + 1);
    return found.hasNext() ? (BlockManagerId) ((Tuple2) found.next())._1() : where;
  }
}
