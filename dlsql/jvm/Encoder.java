package dlsql;

import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.spark.sql.catalyst.util.ArrayData;
import org.apache.spark.sql.execution.vectorized.WritableColumnVector;
import org.apache.spark.sql.types.*;
import org.apache.spark.sql.vectorized.ColumnVector;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.types.UTF8String;

/**
 * Learned preprocessing applied to a row at a time: values in, the bytes that a network takes out. It runs on executors, inside the code
 * that Spark generates for a scan, where a value costs a few nanoseconds; as a column of Arrow it costs a hundred.
 *
 * What each number becomes is what udfs/preprocess.py makes of it, bit for bit; where in the row it stands, Python says.
 */
public final class Encoder implements java.io.Serializable {
  private static final long START = Platform.BYTE_ARRAY_OFFSET;
  private static final ConcurrentHashMap WORDS = new ConcurrentHashMap();  // vocabularies that this process has hashed, by their text

  private final int bytes;  // of a row
  private final int most;  // rows that may travel together
  private final boolean alone;  // the only input is an array: where it is NULL or holds one, there is nothing to score
  private final boolean strict;
  private final boolean finite;  // a row with a number that is NaN or infinite does not fit
  private final double[] bounds;  // how far from its mean a number may be, in deviations
  private final String[] names;
  private final String[] kinds;
  private final int[] at;
  private final int[] sizes;
  private final double[] mean;  // of a number
  private final double[] scale;
  private final double[][] means;  // of an array; of one without them its numbers stay as they are
  private final double[][] scales;
  private final double[][] periods;
  private final byte[][] words;  // of a category, each word after its length: half the size of a map of them, when a task travels
  private final boolean[] nulls;  // whether training saw a NULL in the category
  private final int[] first;  // the code of the first word
  private final TensorPart[] tensors;  // of an imported graph, which takes numbers as they are
  private transient java.util.HashMap[] places;
  private transient Recent[] recent;  // of a category of whole numbers
  private transient Codes codes;

  /** From what Python says: {"bytes", "most", "alone", "strict", "finite", "parts": [{"name", "kind", "at", ...}]}. */
  public Encoder(String json) {
    Map given = (Map) Language.Python.read(json, Map.class);
    List parts = (List) given.get("parts");
    int n = parts.size();
    bytes = ((Number) given.get("bytes")).intValue();
    most = given.containsKey("most") ? ((Number) given.get("most")).intValue() : Integer.MAX_VALUE;
    alone = Boolean.TRUE.equals(given.get("alone"));
    strict = Boolean.TRUE.equals(given.get("strict"));
    finite = Boolean.TRUE.equals(given.get("finite"));
    bounds = new double[n];
    names = new String[n];
    kinds = new String[n];
    at = new int[n];
    sizes = new int[n];
    mean = new double[n];
    scale = new double[n];
    means = new double[n][];
    scales = new double[n][];
    periods = new double[n][];
    words = new byte[n][];
    nulls = new boolean[n];
    first = new int[n];
    tensors = new TensorPart[n];
    for (int i = 0; i < n; i++) {
      Map part = (Map) parts.get(i);
      names[i] = (String) part.get("name");
      kinds[i] = (String) part.get("kind");
      at[i] = ((Number) part.get("at")).intValue();
      sizes[i] = part.containsKey("size") ? ((Number) part.get("size")).intValue() : 1;
      means[i] = doubles(part.get("means"));
      scales[i] = doubles(part.get("scales"));
      mean[i] = means[i] == null ? 0 : means[i][0];
      scale[i] = scales[i] == null ? 1 : scales[i][0];
      periods[i] = doubles(part.get("periods"));
      words[i] = joined((List) part.get("words"));
      nulls[i] = Boolean.TRUE.equals(part.get("nulls"));
      first[i] = part.containsKey("first") ? ((Number) part.get("first")).intValue() : 0;
      tensors[i] = "tensor".equals(kinds[i]) ? new TensorPart(part, strict) : null;
      bounds[i] = part.get("bound") == null ? Double.POSITIVE_INFINITY : ((Number) part.get("bound")).doubleValue();
    }
  }

  private static double[] doubles(Object given) {
    if (given == null) return null;
    List values = (List) given;
    double[] all = new double[values.size()];
    for (int i = 0; i < all.length; i++) all[i] = ((Number) values.get(i)).doubleValue();
    return all;
  }

  private static byte[] joined(List given) {
    if (given == null) return null;
    try {
      java.io.ByteArrayOutputStream all = new java.io.ByteArrayOutputStream();
      java.io.DataOutputStream out = new java.io.DataOutputStream(all);
      for (Object word : given) {
        byte[] text = ((String) word).getBytes(java.nio.charset.StandardCharsets.UTF_8);
        out.writeInt(text.length);
        out.write(text);
      }
      return all.toByteArray();
    } catch (java.io.IOException e) {
      throw new IllegalStateException(e);
    }
  }

  private static java.util.HashMap hashed(byte[] joined) {
    java.util.HashMap map = new java.util.HashMap();
    java.nio.ByteBuffer in = java.nio.ByteBuffer.wrap(joined);
    for (int place = 0; in.hasRemaining(); place++) {
      int length = in.getInt();
      map.put(UTF8String.fromBytes(joined, in.position(), length), Integer.valueOf(place));
      in.position(in.position() + length);
    }
    return map;
  }

  public TensorPart tensor(int part) {
    return tensors[part];
  }

  public String kind(int part) {
    return kinds[part];
  }

  /** A new row: all numbers 0, which is what a NULL number is, all codes 0, which is the unknown word. */
  public byte[] row() {
    return new byte[bytes];
  }

  public int bytes() {
    return bytes;
  }

  public int most() {
    return most;
  }

  /** A number; whether the row fits, as of all that follow. */
  public boolean number(byte[] row, int part, double value) {
    return number(row, START, part, value);
  }

  private boolean number(byte[] rows, long start, int part, double value) {
    Platform.putFloat(rows, start + at[part], (float) bounded((value - mean[part]) / scale[part], bounds[part]));
    return !finite || isFinite(value);
  }

  static boolean isFinite(double value) {
    return Math.abs(value) < Double.POSITIVE_INFINITY;  // of NaN, too
  }

  private static double bounded(double value, double bound) {
    return value > bound ? bound : value < -bound ? -bound : value;  // NaN stays
  }

  /** A moment, in seconds: its place on the scaled time line, then its phase in each period as sine and cosine. */
  public void time(byte[] row, int part, double seconds) {
    time(row, START, part, seconds);
  }

  private void time(byte[] rows, long start, int part, double seconds) {
    number(rows, start, part, seconds);
    long place = start + at[part] + 4;
    double[] lengths = periods[part];
    for (int i = 0; i < lengths.length; i++, place += 8) {
      double turns = seconds / lengths[i] % 1.0;
      double angle = 2 * Math.PI * (turns < 0 ? turns + 1.0 : turns);
      Platform.putFloat(rows, place, (float) Math.sin(angle));
      Platform.putFloat(rows, place + 4, (float) Math.cos(angle));
    }
  }

  /** An array. */
  public boolean numbers(byte[] row, int part, ArrayData array, int elements) {
    return numbers(row, START, part, array, elements, true);
  }

  private boolean numbers(byte[] rows, long start, int part, ArrayData array, int elements, boolean gaps) {
    if (array == null) return !alone;
    int n = array.numElements();
    if (n != sizes[part]) return misfit("holds " + n + " numbers a row; the model takes " + sizes[part] + ".", part);
    long place = start + at[part];
    double[] mean = means[part], scale = scales[part];  // of each element
    double bound = bounds[part];
    if (elements == Values.FLOAT && !gaps) return floats(rows, place, array.toFloatArray(), mean, scale, bound);
    double[] values = Values.doubles(array, elements);
    boolean missing = false;
    for (int i = 0; gaps && i < n; i++) {
      if (!array.isNullAt(i)) continue;
      missing = true;
      values[i] = mean == null ? 0 : mean[i];
    }
    for (int i = 0; i < n; i++, place += 4) {
      if (finite && !isFinite(values[i])) return false;
      Platform.putFloat(rows, place, (float) (mean == null ? values[i] : bounded((values[i] - mean[i]) / scale[i], bound)));
    }
    return !(missing && alone);
  }

  /** The same where none is NULL, without a copy in double precision: of 784 numbers a row it lets an eighth more rows through a prediction. */
  private boolean floats(byte[] rows, long place, float[] values, double[] mean, double[] scale, double bound) {
    for (int i = 0; i < values.length; i++, place += 4) {
      if (finite && !isFinite(values[i])) return false;
      Platform.putFloat(rows, place, mean == null ? values[i] : (float) bounded((values[i] - mean[i]) / scale[i], bound));
    }
    return true;
  }

  /** The same for an array of decimals, which say their type. */
  public boolean decimals(byte[] row, int part, ArrayData array, int precision, int scale) {
    return decimals(row, START, part, array, precision, scale);
  }

  private boolean decimals(byte[] rows, long start, int part, ArrayData array, int precision, int scale) {
    if (array == null) return !alone;
    double[] values = new double[array.numElements()];
    Object[] boxed = new Object[values.length];
    for (int i = 0; i < values.length; i++) boxed[i] = array.isNullAt(i) ? null : Double.valueOf(Values.decimal(array.getDecimal(i, precision, scale)));
    return numbers(rows, start, part, new org.apache.spark.sql.catalyst.util.GenericArrayData(boxed), Values.DOUBLE, true);
  }

  /** A tensor, float32 numbers as they are. */
  public boolean bytes(byte[] row, int part, byte[] tensor) {
    return bytes(row, START, part, UTF8String.fromBytes(tensor));
  }

  private boolean bytes(byte[] rows, long start, int part, UTF8String tensor) {
    if (tensor == null) return !alone;
    int length = tensor.numBytes();
    if (length != 4 * sizes[part]) {
      return misfit("holds " + length + " bytes a row; the model takes " + 4 * sizes[part] + ", " + sizes[part] + " float32 numbers.", part);
    }
    Values.copy(tensor.getBaseObject(), tensor.getBaseOffset(), rows, (int) (start - START) + at[part], length);
    return true;
  }

  private boolean misfit(String found, int part) {
    if (strict) throw new Language.Failure("DLSQL_SCORING", "42804", "`" + names[part] + "` " + found);
    return false;
  }

  /** The code of a word, null for NULL: 2 is the most frequent in training, 1 is NULL where training saw one, 0 is unknown. */
  public void category(byte[] row, int part, UTF8String word) {
    category(row, START, part, word);
  }

  /** The same of a whole number, whose words are its digits. */
  public void category(byte[] row, int part, long number) {
    whole(row, START, part, number);
  }

  private void category(byte[] rows, long start, int part, Object word) {
    Platform.putInt(rows, start + at[part], code(part, word));
  }

  private int code(int part, Object word) {
    if (word == null) return nulls[part] ? 1 : 0;
    Object found = places(part, word instanceof Long).get(word);
    return found == null ? 0 : first[part] + ((Integer) found).intValue();
  }

  /** The codes of numbers that came lately: of few different ones nearly all, without a box for each and a map of them. */
  private static final class Recent {
    private static final int MOST = 256;

    final long[] numbers = new long[MOST];
    final int[] codes = new int[MOST];

    Recent() {
      java.util.Arrays.fill(codes, -1);
    }

    static int slot(long number) {
      return (int) (number ^ number >>> 32) & MOST - 1;
    }
  }

  private void whole(byte[] rows, long start, int part, long number) {
    if (recent == null) recent = new Recent[kinds.length];
    if (recent[part] == null) recent[part] = new Recent();
    Recent known = recent[part];
    int slot = Recent.slot(number);
    if (known.codes[slot] < 0 || known.numbers[slot] != number) {
      known.numbers[slot] = number;
      known.codes[slot] = code(part, Long.valueOf(number));
    }
    Platform.putInt(rows, start + at[part], known.codes[slot]);
  }

  private java.util.HashMap places(int part, boolean whole) {
    if (places == null) places = new java.util.HashMap[words.length];
    if (places[part] == null) {
      java.nio.ByteBuffer key = java.nio.ByteBuffer.wrap(words[part]);
      Object known = WORDS.get(key);
      if (known == null) {
        if (WORDS.size() > 1000) WORDS.clear();
        known = hashed(words[part]);
        WORDS.put(key, known);
      }
      places[part] = (java.util.HashMap) known;
      if (whole) places[part] = wholes(places[part]);
    }
    return places[part];
  }

  private static java.util.HashMap wholes(java.util.HashMap words) {
    java.util.HashMap map = new java.util.HashMap();
    for (Object one : words.entrySet()) {
      String text = ((Map.Entry) one).getKey().toString();
      if (text.matches("-?[0-9]+")) map.put(Long.valueOf(text), ((Map.Entry) one).getValue());  // else the stand-in of a class that no row has
    }
    return map;
  }

  /** What is no feature and travels beside them. */
  public void raw(byte[] row, int part, long value) {
    Platform.putLong(row, START + at[part], value);
  }

  /**
   * A column of many rows at once: what the methods above do for one, without a call for each number.
   *
   * @param rows where they stand, all zeros: row i of the chosen begins at `start + places[i] * stride`.
   * @param column the values, of which `count` are chosen, the i-th at `from + chosen[i]`.
   * @param fits of each place: becomes false where the row does not fit.
   */
  public void column(byte[] rows, long start, int stride, int part, ColumnVector column, int from, int[] chosen, int[] places, int count,
      boolean[] fits) {
    DataType type = column.dataType();
    String kind = kinds[part];
    boolean nulls = column.hasNull();
    if (kind.equals("number")) {
      for (int i = 0; i < count; i++) {
        int row = from + chosen[i];
        if (nulls && column.isNullAt(row)) continue;
        if (!number(rows, start + (long) places[i] * stride, part, Values.number(column, type, row))) fits[places[i]] = false;
      }
      return;
    }
    if (kind.equals("tensor")) {
      tensors[part].column(rows, start, stride, column, from, chosen, places, count, fits);
      return;
    }
    boolean words = kind.equals("category") && type instanceof StringType;
    if (words && column instanceof WritableColumnVector && ((WritableColumnVector) column).hasDictionary()) {
      entries(rows, start + at[part], stride, part, (WritableColumnVector) column, from, chosen, places, count);
      return;
    }
    DataType element = type instanceof ArrayType ? ((ArrayType) type).elementType() : null;
    boolean gaps = Values.hasGaps(column);
    for (int i = 0; i < count; i++) {
      int row = from + chosen[i];
      long at = start + (long) places[i] * stride;
      boolean missing = nulls && column.isNullAt(row);
      if (kind.equals("numbers")) {
        ArrayData array = missing ? null : column.getArray(row);
        fits[places[i]] &= element instanceof DecimalType
            ? decimals(rows, at, part, array, ((DecimalType) element).precision(), ((DecimalType) element).scale())
            : numbers(rows, at, part, array, Values.elements(element), gaps);
      } else if (kind.equals("bytes")) {
        fits[places[i]] &= bytes(rows, at, part, missing ? null : Values.bytes(column, row));
      } else if (kind.equals("category")) {
        if (missing || words) category(rows, at, part, missing ? null : column.getUTF8String(row));
        else whole(rows, at, part, Values.whole(column, type, row));
      } else if (missing) {
        continue;
      } else if (kind.equals("raw")) {
        Platform.putLong(rows, at + this.at[part], Values.whole(column, type, row));
      } else {
        time(rows, at, part, type instanceof DateType ? (double) column.getInt(row) * 86400.0 : (double) column.getLong(row) * 1e-6);
      }
    }
  }

  /** The codes of words that a file keeps in a dictionary: each entry that comes is looked up once. */
  private void entries(byte[] rows, long start, int stride, int part, WritableColumnVector column, int from, int[] chosen, int[] places, int count) {
    WritableColumnVector entries = column.getDictionaryIds();
    boolean nulls = column.hasNull();
    if (codes == null) codes = new Codes();
    codes.forget();
    for (int i = 0; i < count; i++) {
      int row = from + chosen[i];
      long at = start + (long) places[i] * stride;
      if (nulls && column.isNullAt(row)) {
        Platform.putInt(rows, at, code(part, null));
        continue;
      }
      int entry = entries.getDictId(row);
      if (!codes.knows(entry)) codes.put(entry, code(part, column.getUTF8String(row)));
      Platform.putInt(rows, at, codes.codes[entry]);
    }
  }

  /** Codes by the entries of a dictionary. */
  private static final class Codes {
    int[] codes = new int[64];
    private int[] known = new int[64];  // since when
    private int now;

    void forget() {
      now++;
    }

    boolean knows(int entry) {
      return entry < known.length && known[entry] == now;
    }

    void put(int entry, int code) {
      if (entry >= known.length) {
        int length = Math.max(2 * known.length, entry + 1);
        codes = java.util.Arrays.copyOf(codes, length);
        known = java.util.Arrays.copyOf(known, length);
      }
      codes[entry] = code;
      known[entry] = now;
    }
  }
}
