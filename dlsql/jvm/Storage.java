package dlsql;

import java.io.Externalizable;
import java.io.File;
import java.io.IOException;
import java.io.ObjectInput;
import java.io.ObjectOutput;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.util.UUID;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;
import org.apache.spark.MapOutputTracker;
import org.apache.spark.api.python.PythonBroadcast;
import org.apache.spark.memory.MemoryManager;
import org.apache.spark.storage.BlockId;
import org.apache.spark.storage.BlockManager;
import org.apache.spark.storage.StorageLevel;
import org.apache.spark.util.SerializableConfiguration;
import org.apache.spark.util.io.ChunkedByteBuffer;
import scala.reflect.ClassTag$;

/** What Spark keeps on a host, and the parts of it in this process that do. */
public final class Storage {
  public static BlockManager manager() {
    return (BlockManager) here("blockManager", BlockManager.class);
  }

  /** Keeps bytes as a block; whether Spark did. */
  static boolean put(BlockManager manager, BlockId id, ByteBuffer[] pieces, StorageLevel level, boolean tellDriver) {
    return manager.putBytes(id, new ChunkedByteBuffer(pieces), level, tellDriver, manager.putBytes$default$5(), manager.putBytes$default$6(),
        ClassTag$.MODULE$.apply(byte[].class));
  }

  /** Where the tasks' outputs lie that shuffles read. */
  static MapOutputTracker outputs() {
    return (MapOutputTracker) here("mapOutputTracker", MapOutputTracker.class);
  }

  static MemoryManager memory() {
    return (MemoryManager) here("memoryManager", MemoryManager.class);
  }

  /** A part of Spark. Janino cannot read the class that tells it, and to ask it takes its time. */
  private static Object here(String part, Class type) {
    try {
      Class environment = Class.forName("org.apache.spark.SparkEnv");
      MethodHandles.Lookup lookup = MethodHandles.publicLookup();
      Object here = lookup.findStatic(environment, "get", MethodType.methodType(environment)).invokeWithArguments(new Object[0]);
      return lookup.findVirtual(environment, part, MethodType.methodType(type)).invokeWithArguments(new Object[] {here});
    } catch (Throwable e) {
      throw new IllegalStateException(e);
    }
  }

  /**
   * A file of a Hadoop file system, as a broadcast of Python's. Each executor reads it from there by itself, once, when Python first needs
   * it, to a file among those that Spark removes as the executor ends. The bytes of Spark's own broadcasts go through the driver and the
   * executors' memory: those of 500 MB took 6 seconds, and an executor with a heap of 1 GB did not survive the second network of that size.
   */
  public static final class Distant extends PythonBroadcast implements Externalizable {
    private String source;
    private SerializableConfiguration settings;
    private transient String here;

    /** As it arrives. */
    public Distant() {
      super(null);
    }

    public Distant(String source, Configuration settings) {
      super(null);
      this.source = source;
      this.settings = new SerializableConfiguration(settings);
    }

    public void writeExternal(ObjectOutput out) throws IOException {
      out.writeUTF(source);
      out.writeObject(settings);
    }

    public void readExternal(ObjectInput in) throws IOException, ClassNotFoundException {
      source = in.readUTF();
      settings = (SerializableConfiguration) in.readObject();
    }

    /** Where it lies on this host. */
    public synchronized String path() {
      if (here == null) here = placed().getAbsolutePath();
      return here;
    }

    private File placed() {
      File file = manager().diskBlockManager().getFile("dlsql-" + UUID.nameUUIDFromBytes(source.getBytes(StandardCharsets.UTF_8)));
      if (file.exists()) return file;  // of a value that Spark took out of its memory
      File part = new File(file.getPath() + ".part");
      try {
        Path from = new Path(source);
        from.getFileSystem(settings.value()).copyToLocalFile(false, from, new Path(part.toURI()), true);
        Files.move(part.toPath(), file.toPath(), StandardCopyOption.ATOMIC_MOVE);
        return file;
      } catch (IOException e) {
        throw new Language.Failure("DLSQL_STORAGE", "58030", "Could not read " + source + ": " + e);
      } finally {
        part.delete();
      }
    }
  }
}
