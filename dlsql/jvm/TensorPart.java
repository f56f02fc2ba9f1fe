package dlsql;

import java.util.Map;
import org.apache.spark.sql.catalyst.util.ArrayData;
import org.apache.spark.sql.types.*;
import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.types.UTF8String;

/**
 * A tensor that an imported graph takes of a row: numbers, arrays and bytes of Spark's to its elements. A row in which one is NULL does not
 * fit, nor does one whose numbers the tensor cannot hold or whose array is of another length; where it is strict, those are errors.
 */
public final class TensorPart implements java.io.Serializable {
  private static final long START = Platform.BYTE_ARRAY_OFFSET;

  private final String name;
  private final boolean strict;
  private final int at;  // its place in a row
  private final int size;  // how many elements
  private final Element element;
  private final String shown;  // its type and sizes
  private final String limits;  // of its numbers

  /** From what Python says: {"name", "at", "size", "dtype", "shown", "limits"}. */
  public TensorPart(Map told, boolean strict) {
    name = (String) told.get("name");
    this.strict = strict;
    at = ((Number) told.get("at")).intValue();
    size = ((Number) told.get("size")).intValue();
    element = new Element((String) told.get("dtype"));
    shown = (String) told.get("shown");
    limits = (String) told.get("limits");
  }

  /** A number as an element of a tensor. */
  public boolean put(byte[] row, long value) {
    return put(row, START, value);
  }

  private boolean put(byte[] rows, long start, long value) {
    return element.put(rows, start + at, value) || outside(Long.valueOf(value));
  }

  public boolean put(byte[] row, double value) {
    return put(row, START, value);
  }

  private boolean put(byte[] rows, long start, double value) {
    return element.put(rows, start + at, value) || outside(Double.valueOf(value));
  }

  public boolean put(byte[] row, Decimal value) {
    return put(row, START, value);
  }

  private boolean put(byte[] rows, long start, Decimal value) {
    return element.put(rows, start + at, value) || outside(value);
  }

  /** An array as a tensor. */
  public boolean put(byte[] row, ArrayData array, int elements) {
    return put(row, START, array, elements, true);
  }

  private boolean put(byte[] rows, long start, ArrayData array, int elements, boolean gaps) {
    if (array == null) return false;
    int n = array.numElements();
    if (n != size) return misfitting(n);
    long place = start + at;
    if (!gaps && elements == Values.FLOAT && element.type == Element.FLOAT32) {
      Platform.copyMemory(array.toFloatArray(), Platform.FLOAT_ARRAY_OFFSET, rows, place, 4L * n);
      return true;
    }
    if (!gaps && elements == Values.LONG && element.type == Element.INT64) {
      Platform.copyMemory(array.toLongArray(), Platform.LONG_ARRAY_OFFSET, rows, place, 8L * n);
      return true;
    }
    boolean fits = true;
    for (int i = 0; gaps && i < n; i++) fits &= !array.isNullAt(i);
    if (elements == Values.LONG || elements == Values.BOOLEAN) {
      for (int i = 0; i < n; i++, place += element.size) {
        if (gaps && array.isNullAt(i)) continue;
        long value = elements == Values.LONG ? array.getLong(i) : array.getBoolean(i) ? 1 : 0;
        fits &= element.put(rows, place, value) || outside(Long.valueOf(value));
      }
    } else {
      double[] values = Values.doubles(array, elements);  // which hold all numbers of these types
      for (int i = 0; i < n; i++, place += element.size) {
        if (gaps && array.isNullAt(i)) continue;
        fits &= element.put(rows, place, values[i]) || outside(elements >= Values.BYTE ? (Object) Long.valueOf((long) values[i]) : Double.valueOf(values[i]));
      }
    }
    return fits;
  }

  /** The same of decimals. */
  public boolean put(byte[] row, ArrayData array, int precision, int scale) {
    return put(row, START, array, precision, scale);
  }

  private boolean put(byte[] rows, long start, ArrayData array, int precision, int scale) {
    if (array == null) return false;
    int n = array.numElements();
    if (n != size) return misfitting(n);
    long place = start + at;
    boolean fits = true;
    for (int i = 0; i < n; i++, place += element.size) {
      Decimal value = array.isNullAt(i) ? null : array.getDecimal(i, precision, scale);
      fits &= value != null && (element.put(rows, place, value) || outside(value));
    }
    return fits;
  }

  /** A tensor's own bytes. */
  public boolean put(byte[] row, byte[] tensor) {
    return put(row, START, UTF8String.fromBytes(tensor));
  }

  private boolean put(byte[] rows, long start, UTF8String tensor) {
    if (tensor == null) return false;
    int length = tensor.numBytes(), bytes = element.size * size, place = (int) (start - START) + at;
    if (length != bytes) return misfit("holds " + length + " bytes a row; the model takes " + shown + ", " + bytes + " bytes.");
    Values.copy(tensor.getBaseObject(), tensor.getBaseOffset(), rows, place, length);
    // A truth value is 0 or 1, and other bytes would pass for neither.
    if (element.type == Element.BOOL) for (int i = place; i < place + length; i++) if (rows[i] != 0) rows[i] = 1;
    return true;
  }

  private boolean misfitting(int elements) {
    return misfit("holds " + elements + " elements a row; the model takes " + shown + ".");
  }

  private boolean outside(Object value) {
    return misfit("holds " + value + "; the model takes " + limits + ".");
  }

  private boolean misfit(String found) {
    if (strict) throw new Language.Failure("DLSQL_SCORING", "42804", "`" + name + "` " + found);
    return false;
  }

  /** A column of many rows at once, see Encoder. */
  public void column(byte[] rows, long start, int stride, ColumnVector column, int from, int[] chosen, int[] places, int count,
      boolean[] fits) {
    DataType type = column.dataType();
    DataType of = type instanceof ArrayType ? ((ArrayType) type).elementType() : null;
    boolean nulls = column.hasNull(), gaps = Values.hasGaps(column);
    for (int i = 0; i < count; i++) {
      int row = from + chosen[i];
      long place = start + (long) places[i] * stride;
      boolean fit;
      if (nulls && column.isNullAt(row)) fit = false;
      else if (of instanceof DecimalType) fit = put(rows, place, column.getArray(row), ((DecimalType) of).precision(), ((DecimalType) of).scale());
      else if (of != null) fit = put(rows, place, column.getArray(row), Values.elements(of), gaps);
      else if (type instanceof BinaryType) fit = put(rows, place, Values.bytes(column, row));
      else if (type instanceof DecimalType) fit = put(rows, place, column.getDecimal(row, ((DecimalType) type).precision(), ((DecimalType) type).scale()));
      else if (type instanceof FractionalType) fit = put(rows, place, Values.number(column, type, row));
      else fit = put(rows, place, Values.whole(column, type, row));
      fits[places[i]] &= fit;
    }
  }
}
