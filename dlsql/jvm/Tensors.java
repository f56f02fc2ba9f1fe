package dlsql;

import java.math.BigInteger;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow;
import org.apache.spark.sql.catalyst.expressions.UnsafeArrayData;
import org.apache.spark.sql.catalyst.util.ArrayData;
import org.apache.spark.sql.catalyst.util.GenericArrayData;
import org.apache.spark.sql.types.Decimal;
import org.apache.spark.unsafe.Platform;

/**
 * The tensors that an imported graph gives for a row, to values and arrays, nested as deep as a tensor has sizes. Of each that is more than a
 * value its sizes come first, as int32: they may be others for other rows. It runs on executors.
 */
public final class Tensors implements Answers {
  private final boolean marked;  // the first byte says whether the graph answered
  private final String[] types;  // as numpy names them
  private final int[] depths;

  /** From what Python says: {"marked", "outputs": [{"dtype", "depth"}, ...]}. */
  public Tensors(String json) {
    Map told = (Map) Language.Python.read(json, Map.class);
    List outputs = (List) told.get("outputs");
    marked = Boolean.TRUE.equals(told.get("marked"));
    types = new String[outputs.size()];
    depths = new int[types.length];
    for (int i = 0; i < types.length; i++) {
      types[i] = (String) ((Map) outputs.get(i)).get("dtype");
      depths[i] = ((Number) ((Map) outputs.get(i)).get("depth")).intValue();
    }
  }

  public boolean isNumber() {
    return false;
  }

  public double number(byte[] outputs, int place) {
    throw new UnsupportedOperationException();
  }

  /** The first tensor as "label"; a struct of all as "whole". */
  public Object answer(String part, byte[] outputs) {
    Reader in = new Reader(outputs, marked ? 1 : 0);
    if (marked && outputs[0] == 0) return null;
    if (part.equals("label")) return in.tensor(types[0], depths[0]);
    Object[] fields = new Object[types.length];
    for (int i = 0; i < fields.length; i++) fields[i] = in.tensor(types[i], depths[i]);
    return new GenericInternalRow(fields);
  }

  private static final class Reader {
    private final byte[] bytes;
    private int at;

    Reader(byte[] bytes, int at) {
      this.bytes = bytes;
      this.at = at;
    }

    private long next(int size) {
      long place = Platform.BYTE_ARRAY_OFFSET + at;
      at += size;
      return place;
    }

    Object tensor(String type, int depth) {
      if (depth == 0) return value(type);
      int[] sizes = new int[depth];
      for (int i = 0; i < depth; i++) sizes[i] = Platform.getInt(bytes, next(4));
      return array(type, sizes, 0);
    }

    private Object value(String type) {
      if (type.equals("float32")) return Float.valueOf(Platform.getFloat(bytes, next(4)));
      if (type.equals("float64")) return Double.valueOf(Platform.getDouble(bytes, next(8)));
      if (type.equals("int64")) return Long.valueOf(Platform.getLong(bytes, next(8)));
      if (type.equals("int32")) return Integer.valueOf(Platform.getInt(bytes, next(4)));
      if (type.equals("int16")) return Short.valueOf(Platform.getShort(bytes, next(2)));
      if (type.equals("int8")) return Byte.valueOf(Platform.getByte(bytes, next(1)));
      if (type.equals("bool")) return Boolean.valueOf(Platform.getByte(bytes, next(1)) != 0);
      BigInteger whole = BigInteger.valueOf(Platform.getLong(bytes, next(8)));  // of uint64
      if (whole.signum() < 0) whole = whole.add(BigInteger.ONE.shiftLeft(64));
      return Decimal.apply(new java.math.BigDecimal(whole), 20, 0);
    }

    private ArrayData array(String type, int[] sizes, int axis) {
      int n = sizes[axis];
      boolean isLast = axis == sizes.length - 1;
      if (isLast && !type.equals("uint64")) {
        int size = new Element(type).size;
        int from = (int) next(Math.multiplyExact(n, size));
        return UnsafeArrayData.fromPrimitiveArray(bytes, from, n, size);
      }
      Object[] parts = new Object[n];
      for (int i = 0; i < n; i++) parts[i] = isLast ? value(type) : array(type, sizes, axis + 1);
      return new GenericArrayData(parts);
    }
  }
}
