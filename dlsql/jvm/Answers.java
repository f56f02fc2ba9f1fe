package dlsql;

/** What reads a network's outputs for a row, which Python gives as bytes: to "label", "map" or "whole", in Spark's own form. */
public interface Answers extends java.io.Serializable {
  Object answer(String part, byte[] outputs);

  /** Whether the label is a number, which `number` gives without a box. */
  boolean isNumber();

  /** The label of the row whose outputs begin at a place. */
  double number(byte[] outputs, int place);
}
