package dlsql;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.*;
import org.apache.spark.sql.catalyst.util.ArrayBasedMapData;
import org.apache.spark.sql.catalyst.util.GenericArrayData;
import org.apache.spark.sql.types.*;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.types.UTF8String;

/**
 * A network's outputs, float32 numbers, to what the functions show of them: of a classification logits [classes], of a regression one number,
 * and of several labels theirs one after the other, whose answers make a struct. It runs on executors.
 */
public final class Labels implements Answers {
  private final Labels[] labels;  // of several; else null
  private final Object[] classes;  // in Spark's own form, ascending; null for a number
  private final double mean;  // of a number, which the network gives in deviations from it
  private final double scale;
  private final long start;  // of the first output, in a row of outputs

  /** From what Python says of each label: [{"classes", "type"}, {"mean", "scale"}, ...]. */
  public Labels(String json) {
    this((List) Language.Python.read(json, List.class));
  }

  private Labels(List told) {
    this(told.size() == 1 ? (Map) told.get(0) : null, told.size() == 1 ? null : each(told), 0);
  }

  private static Labels[] each(List told) {
    Labels[] all = new Labels[told.size()];
    int at = 0;
    for (int i = 0; i < all.length; i++) {
      all[i] = new Labels((Map) told.get(i), null, at);
      at += all[i].classes == null ? 1 : all[i].classes.length;
    }
    return all;
  }

  private Labels(Map told, Labels[] labels, int at) {
    this.labels = labels;
    start = Platform.BYTE_ARRAY_OFFSET + 4L * at;
    boolean isNumber = told != null && told.containsKey("mean");
    mean = isNumber ? ((Number) told.get("mean")).doubleValue() : 0;
    scale = isNumber ? ((Number) told.get("scale")).doubleValue() : 1;
    classes = told == null || isNumber ? null : read((List) told.get("classes"), DataType.fromDDL((String) told.get("type")));
  }

  /** Classes from their texts, as Spark's CAST reads them; of BINARY in base64. */
  private static Object[] read(List texts, DataType wanted) {
    Object[] classes = new Object[texts.size()];
    for (int i = 0; i < classes.length; i++) {
      String text = (String) texts.get(i);
      Expression literal = Literal.create(UTF8String.fromString(text), StringType$.MODULE$);
      classes[i] = wanted instanceof BinaryType ? java.util.Base64.getDecoder().decode(text)
          : new Cast(literal, wanted, scala.Option.apply("UTC"), EvalMode.ANSI()).eval(InternalRow.empty());
    }
    return classes;
  }

  private float output(byte[] outputs, int i) {
    return Platform.getFloat(outputs, start + 4L * i);
  }

  /** A struct of what each of several labels shows. */
  private Object struct(String part, byte[] outputs) {
    Object[] fields = new Object[labels.length];
    for (int i = 0; i < fields.length; i++) fields[i] = labels[i].answer(part, outputs);
    return new GenericInternalRow(fields);
  }

  /** Whether the answer is a number, which `number` gives without a box. */
  public boolean isNumber() {
    return labels == null && classes == null;
  }

  public double number(byte[] outputs, int place) {
    return Platform.getFloat(outputs, start + place) * scale + mean;
  }

  /** The shares of the classes, by softmax in float64, shifted by the largest so that none overflows; of strange logits all NaN. */
  private double[] probabilities(byte[] outputs) {
    double[] powers = new double[classes.length];
    double most = Double.NEGATIVE_INFINITY;
    for (int i = 0; i < powers.length; i++) {
      powers[i] = output(outputs, i);
      most = Math.max(most, powers[i]);  // NaN, where one is
    }
    double sum = 0;
    for (int i = 0; i < powers.length; i++) sum += powers[i] = Math.exp(powers[i] - most);
    for (int i = 0; i < powers.length; i++) powers[i] /= sum;
    return powers;
  }

  /** The most probable class, the first of equals; or the number. */
  public Object label(byte[] outputs) {
    if (labels != null) return struct("label", outputs);
    if (classes == null) return Double.valueOf(number(outputs, 0));
    int best = 0;
    double most = output(outputs, 0);
    for (int i = 1; i < classes.length; i++) {
      double value = output(outputs, i);
      if (value != value) return classes[0];
      if (value - most > 1.2e-16) {  // nearer ones have the same probability
        most = value;
        best = i;
      }
    }
    return classes[most != most || most == Double.POSITIVE_INFINITY ? 0 : best];
  }

  /** The classes' places, the most probable first, equals in their order. */
  private static Integer[] ranked(final double[] probabilities) {
    Integer[] order = new Integer[probabilities.length];
    for (int i = 0; i < order.length; i++) order[i] = Integer.valueOf(i);
    Arrays.sort(order, new java.util.Comparator() {
      public int compare(Object a, Object b) {
        return Double.compare(probabilities[((Integer) b).intValue()], probabilities[((Integer) a).intValue()]);
      }
    });
    return order;
  }

  /** MAP<label, probability>. */
  public Object map(byte[] outputs) {
    double[] probabilities = probabilities(outputs);
    Integer[] order = ranked(probabilities);
    Object[] keys = new Object[order.length], values = new Object[order.length];
    for (int i = 0; i < order.length; i++) {
      keys[i] = classes[order[i].intValue()];
      values[i] = Double.valueOf(probabilities[order[i].intValue()]);
    }
    return new ArrayBasedMapData(new GenericArrayData(keys), new GenericArrayData(values));
  }

  /** STRUCT<label, probability, probabilities>; or STRUCT<value>. */
  public Object whole(byte[] outputs) {
    if (labels != null) return struct("whole", outputs);
    if (classes == null) return new GenericInternalRow(new Object[] {Double.valueOf(number(outputs, 0))});
    double[] probabilities = probabilities(outputs);
    Integer[] order = ranked(probabilities);
    Object[] entries = new Object[order.length];
    for (int i = 0; i < order.length; i++) {
      int place = order[i].intValue();
      entries[i] = new GenericInternalRow(new Object[] {classes[place], Double.valueOf(probabilities[place])});
    }
    int best = order[0].intValue();
    return new GenericInternalRow(new Object[] {classes[best], Double.valueOf(probabilities[best]), new GenericArrayData(entries)});
  }

  public Object answer(String part, byte[] outputs) {
    return part.equals("label") ? label(outputs) : part.equals("map") ? map(outputs) : whole(outputs);
  }
}
