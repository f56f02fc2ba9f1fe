package dlsql;

import java.math.BigInteger;
import java.util.Arrays;
import java.util.List;
import org.apache.spark.sql.types.Decimal;
import org.apache.spark.unsafe.Platform;

/**
 * The type of a tensor's elements: how numbers of Spark's become them, as CAST makes them in ANSI mode. A fraction is cut off, and what is
 * beyond a float32 is infinite; a whole number out of the type's range, and a finite one beyond float16, which Spark has not, do not fit.
 *
 * It is what `narrowed` of udfs/tensors.py makes of columns.
 */
public final class Element implements java.io.Serializable {
  private static final List NAMES = Arrays.asList("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64");
  private static final int[] SIZES = {1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8};
  public static final int BOOL = 0, INT64 = 4, UINT64 = 8, FLOAT16 = 9, FLOAT32 = 10, FLOAT64 = 11;
  private static final int FIRST_UNSIGNED = 5;
  private static final double TWO_63 = 9223372036854775808.0;

  public final int type;
  public final int size;  // in bytes
  private final long least;  // of whole numbers but those of UINT64
  private final long most;

  /** By numpy's name. */
  public Element(String name) {
    type = NAMES.indexOf(name);
    size = SIZES[type];
    boolean signed = type < FIRST_UNSIGNED;
    int bits = signed ? 8 * size - 1 : Math.min(8 * size, 63);
    most = bits == 63 ? Long.MAX_VALUE : (1L << bits) - 1;
    least = signed ? -most - 1 : 0;
  }

  /** Writes a whole number; whether it fits, as of all that follow. */
  public boolean put(byte[] to, long place, long value) {
    if (type == FLOAT32) Platform.putFloat(to, place, value);
    else if (type == FLOAT64) Platform.putDouble(to, place, value);
    else if (type == FLOAT16) return put(to, place, (double) value);
    else if (type == BOOL) Platform.putByte(to, place, (byte) (value == 0 ? 0 : 1));
    else if (value < least || value > most) return false;
    else write(to, place, value);
    return true;
  }

  public boolean put(byte[] to, long place, double value) {
    if (type == FLOAT32) {
      Platform.putFloat(to, place, (float) value);
    } else if (type == FLOAT64) {
      Platform.putDouble(to, place, value);
    } else if (type == FLOAT16) {
      short half = half(value);
      Platform.putShort(to, place, half);
      return (half & 0x7fff) != 0x7c00 || Double.isInfinite(value);
    } else if (type == BOOL) {
      Platform.putByte(to, place, (byte) (value == 0 ? 0 : 1));
    } else if (type == UINT64 && value >= TWO_63 && value < 2 * TWO_63) {
      write(to, place, (long) (value - TWO_63) + Long.MIN_VALUE);
    } else {
      // Doubles do not have the largest number of 64 bits, and the one after it, a power of two, exactly. NaN is not inside.
      double whole = value < 0 ? Math.ceil(value) : Math.floor(value);
      if (!(whole >= least && (most == Long.MAX_VALUE ? whole < TWO_63 : whole <= most))) return false;
      write(to, place, (long) whole);
    }
    return true;
  }

  public boolean put(byte[] to, long place, Decimal value) {
    if (type >= FLOAT16) return put(to, place, Values.decimal(value));
    if (type == BOOL) return put(to, place, value.isZero() ? 0L : 1L);
    BigInteger whole = value.toJavaBigDecimal().toBigInteger();
    if (type == UINT64 && whole.signum() >= 0 && whole.bitLength() <= 64) {
      write(to, place, whole.longValue());
      return true;
    }
    return whole.bitLength() <= 63 && put(to, place, whole.longValue());
  }

  private void write(byte[] to, long place, long value) {
    if (size == 1) Platform.putByte(to, place, (byte) value);
    else if (size == 2) Platform.putShort(to, place, (short) value);
    else if (size == 4) Platform.putInt(to, place, (int) value);
    else Platform.putLong(to, place, value);
  }

  /** The bits of the float16 nearest to a number, the even one of two that are as near. */
  private static short half(double value) {
    if (value != value) return 0x7e00;
    int sign = Double.doubleToRawLongBits(value) < 0 ? 0x8000 : 0;
    double size = Math.abs(value);
    if (size >= 65520) return (short) (sign | 0x7c00);
    int exponent = Math.max(Math.getExponent(size), -14);  // the numbers below the smallest one's are as far apart as those above it
    int steps = (int) Math.rint(Math.scalb(size, 10 - exponent));  // 1024 to 2047; 2048 carries into the exponent, as it should
    return (short) (sign | (exponent + 14 << 10) + steps);
  }
}
