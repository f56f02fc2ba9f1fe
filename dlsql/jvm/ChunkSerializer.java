package dlsql;

import java.io.Closeable;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import org.apache.spark.serializer.DeserializationStream;
import org.apache.spark.serializer.SerializationStream;
import org.apache.spark.serializer.Serializer;
import org.apache.spark.serializer.SerializerInstance;
import org.apache.spark.unsafe.Platform;
import scala.reflect.ClassTag;

/**
 * How pairs of a number and a ByteBuffer over an array travel in a shuffle: the number, how many bytes, and these as they are. What was
 * written may be filled anew. Java's own streams copy arrays in pieces of a kilobyte, and remember each of them until they are closed.
 */
public final class ChunkSerializer extends Serializer implements java.io.Serializable {
  public SerializerInstance newInstance() {
    return new Instance();
  }

  public boolean supportsRelocationOfSerializedObjects() {
    return true;
  }

  public static final class Instance extends SerializerInstance {
    public SerializationStream serializeStream(OutputStream to) {
      return new Out(new DataOutputStream(to));
    }

    public DeserializationStream deserializeStream(InputStream from) {
      return new In(new DataInputStream(from));
    }

    // For single objects, which a shuffle has none of.

    public ByteBuffer serialize(Object given, ClassTag type) {
      throw new UnsupportedOperationException();
    }

    public Object deserialize(ByteBuffer bytes, ClassTag type) {
      throw new UnsupportedOperationException();
    }

    public Object deserialize(ByteBuffer bytes, ClassLoader loader, ClassTag type) {
      throw new UnsupportedOperationException();
    }
  }

  public static final class Out extends SerializationStream {
    private final DataOutputStream to;

    Out(DataOutputStream to) {
      this.to = to;
    }

    public SerializationStream writeObject(Object given, ClassTag type) {
      try {
        if (given instanceof Integer) {
          to.writeInt(((Integer) given).intValue());
        } else {
          ByteBuffer bytes = (ByteBuffer) given;
          to.writeInt(bytes.remaining());
          to.write(bytes.array(), bytes.arrayOffset() + bytes.position(), bytes.remaining());
        }
        return this;
      } catch (IOException e) {
        throw raised(e);
      }
    }

    public void flush() {
      try {
        to.flush();
      } catch (IOException e) {
        throw raised(e);
      }
    }

    public void close() {
      ChunkSerializer.close(to);
    }
  }

  public static final class In extends DeserializationStream {
    private final DataInputStream from;

    In(DataInputStream from) {
      this.from = from;
    }

    public Object readKey(ClassTag type) {
      try {
        return Integer.valueOf(from.readInt());
      } catch (IOException e) {
        throw raised(e);
      }
    }

    public Object readValue(ClassTag type) {
      try {
        byte[] bytes = new byte[from.readInt()];
        from.readFully(bytes);
        return ByteBuffer.wrap(bytes);
      } catch (IOException e) {
        throw raised(e);
      }
    }

    public Object readObject(ClassTag type) {
      throw new UnsupportedOperationException();
    }

    public void close() {
      ChunkSerializer.close(from);
    }
  }

  private static void close(Closeable stream) {
    try {
      stream.close();
    } catch (IOException e) {
      throw raised(e);
    }
  }

  /** Raises an error that Scala's methods do not declare, as it is: Spark's iterator over a stream ends at its EOFException. */
  private static RuntimeException raised(IOException e) {
    Platform.throwException(e);
    return null;
  }
}
