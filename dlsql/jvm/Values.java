package dlsql;

import org.apache.spark.sql.catalyst.util.ArrayData;
import org.apache.spark.sql.execution.vectorized.WritableColumnVector;
import org.apache.spark.sql.types.*;
import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.types.UTF8String;

/** How numbers and bytes are read out of Spark's columns, arrays and decimals. */
public final class Values {
  public static final int FLOAT = 0, DOUBLE = 1, BYTE = 2, SHORT = 3, INT = 4, LONG = 5, BOOLEAN = 6;  // elements of an array

  private static final double[] POWERS = new double[23];  // of ten, those that a double holds exactly

  static {
    double power = 1;
    for (int i = 0; i < POWERS.length; i++, power *= 10) POWERS[i] = power;
  }

  /** What kind of numbers an array holds. */
  public static int elements(DataType type) {
    if (type instanceof FloatType) return FLOAT;
    if (type instanceof DoubleType) return DOUBLE;
    if (type instanceof ByteType) return BYTE;
    if (type instanceof ShortType) return SHORT;
    if (type instanceof IntegerType) return INT;
    if (type instanceof LongType) return LONG;
    if (type instanceof BooleanType) return BOOLEAN;
    throw new IllegalArgumentException("an array of " + type.catalogString());
  }

  /** Numbers out of an array, where it is NULL any. All at once: one by one, out of a column of Parquet, it takes three times as long. */
  public static double[] doubles(ArrayData array, int elements) {
    if (elements == DOUBLE) return array.toDoubleArray();
    double[] values = new double[array.numElements()];
    if (elements == FLOAT) {
      float[] all = array.toFloatArray();
      for (int i = 0; i < values.length; i++) values[i] = all[i];
    } else if (elements == BYTE) {
      byte[] all = array.toByteArray();
      for (int i = 0; i < values.length; i++) values[i] = all[i];
    } else if (elements == SHORT) {
      short[] all = array.toShortArray();
      for (int i = 0; i < values.length; i++) values[i] = all[i];
    } else if (elements == INT) {
      int[] all = array.toIntArray();
      for (int i = 0; i < values.length; i++) values[i] = all[i];
    } else {
      long[] all = array.toLongArray();
      for (int i = 0; i < values.length; i++) values[i] = all[i];
    }
    return values;
  }

  /** Whether an element of a column's arrays may be NULL. */
  public static boolean hasGaps(ColumnVector column) {
    boolean isOpen = column.dataType() instanceof ArrayType && column instanceof WritableColumnVector;  // ORC's arrays do not show their elements
    return !isOpen || column.getChild(0).hasNull();
  }

  public static double number(ColumnVector column, DataType type, int row) {
    if (type instanceof DoubleType) return column.getDouble(row);
    if (type instanceof FloatType) return column.getFloat(row);
    if (type instanceof DecimalType) return decimal(column.getDecimal(row, ((DecimalType) type).precision(), ((DecimalType) type).scale()));
    return whole(column, type, row);
  }

  /** A whole number, or 1 for true. */
  public static long whole(ColumnVector column, DataType type, int row) {
    if (type instanceof LongType) return column.getLong(row);
    if (type instanceof IntegerType) return column.getInt(row);
    if (type instanceof ShortType) return column.getShort(row);
    if (type instanceof ByteType) return column.getByte(row);
    return column.getBoolean(row) ? 1 : 0;
  }

  /** A decimal as the double nearest to it: both are whole numbers that a double holds, so that one division rounds once. */
  public static double decimal(Decimal value) {
    if (value.precision() > 18 || value.scale() > 22) return value.toDouble();
    long whole = value.toUnscaledLong();
    return Math.abs(whole) <= 1L << 53 ? whole / POWERS[value.scale()] : value.toDouble();
  }

  /** The bytes of a BINARY: where they lie, of a column of Spark's own, whose `getBinary` copies them. */
  public static UTF8String bytes(ColumnVector column, int row) {
    return column instanceof WritableColumnVector ? column.getUTF8String(row) : UTF8String.fromBytes(column.getBinary(row));
  }

  /** Bytes of a row. Of few, an array's copy is far faster than Platform's, which checks its arguments and calls; of four, neither is called. */
  public static void copy(Object from, long at, byte[] to, int place, int length) {
    if (length == 4) Platform.putInt(to, Platform.BYTE_ARRAY_OFFSET + place, Platform.getInt(from, at));
    else if (from instanceof byte[]) System.arraycopy(from, (int) (at - Platform.BYTE_ARRAY_OFFSET), to, place, length);
    else Platform.copyMemory(from, at, to, Platform.BYTE_ARRAY_OFFSET + place, length);
  }
}
