package dlsql;

import java.util.Arrays;
import java.util.List;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.*;
import org.apache.spark.sql.catalyst.util.ArrayBasedMapData;
import org.apache.spark.sql.catalyst.util.GenericArrayData;
import org.apache.spark.sql.types.*;
import org.apache.spark.unsafe.Platform;
import org.apache.spark.unsafe.types.UTF8String;

/** A classification's outputs, logits as float32 [classes], to what the functions show of them. It runs on executors. */
public final class Answers implements java.io.Serializable {
  private final Object[] classes;  // in Spark's own form, ascending

  /** From the classes' texts, as Spark's CAST reads them; of BINARY in base64. */
  public Answers(List texts, String type) {
    DataType wanted = DataType.fromDDL(type);
    classes = new Object[texts.size()];
    for (int i = 0; i < classes.length; i++) {
      String text = (String) texts.get(i);
      Expression literal = Literal.create(UTF8String.fromString(text), StringType$.MODULE$);
      classes[i] = wanted instanceof BinaryType ? java.util.Base64.getDecoder().decode(text)
          : new Cast(literal, wanted, scala.Option.apply("UTC"), EvalMode.ANSI()).eval(InternalRow.empty());
    }
  }

  public boolean equals(Object other) {
    return other == this;  // Python makes one for a model and hands it out
  }

  public int hashCode() {
    return System.identityHashCode(this);
  }

  /** The shares of the classes, by softmax in float64, shifted by the largest so that none overflows; of strange logits all NaN. */
  private double[] probabilities(byte[] outputs) {
    double[] powers = new double[classes.length];
    double most = Double.NEGATIVE_INFINITY;
    for (int i = 0; i < powers.length; i++) {
      powers[i] = Platform.getFloat(outputs, Platform.BYTE_ARRAY_OFFSET + 4L * i);
      most = Math.max(most, powers[i]);  // NaN, where one is
    }
    double sum = 0;
    for (int i = 0; i < powers.length; i++) sum += powers[i] = Math.exp(powers[i] - most);
    for (int i = 0; i < powers.length; i++) powers[i] /= sum;
    return powers;
  }

  /** The most probable class; the first of equals. */
  public Object label(byte[] outputs) {
    int best = 0;
    double most = Platform.getFloat(outputs, Platform.BYTE_ARRAY_OFFSET);
    for (int i = 1; i < classes.length; i++) {
      double value = Platform.getFloat(outputs, Platform.BYTE_ARRAY_OFFSET + 4L * i);
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

  /** STRUCT<label, probability, probabilities>. */
  public Object whole(byte[] outputs) {
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
