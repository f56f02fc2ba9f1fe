package dlsql;

import java.util.ArrayList;
import java.util.List;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.And;
import org.apache.spark.sql.catalyst.expressions.ConditionalExpression;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.codegen.*;
import org.apache.spark.sql.catalyst.trees.TreeNode;
import org.apache.spark.sql.catalyst.util.ArrayData;
import org.apache.spark.sql.types.*;
import org.apache.spark.unsafe.types.UTF8String;
import scala.collection.immutable.IndexedSeq;
import scala.collection.immutable.Seq;

/**
 * The inputs of a network as one BINARY; NULL for a row that is not to be scored.
 *
 * Its first two children say which rows are: those that the CASE around it comes to, and of these those whose features are there. The others
 * feed it, and are evaluated for these rows alone: Spark must not evaluate what they have in common beforehand.
 */
public class Encode extends Expression implements Inputs, ConditionalExpression, java.io.Serializable {
  private static final int PARTS = 2;  // the place of the first feature

  private final Encoder encoder;
  private final Seq kids;
  private final Asked asked;  // null where no network is

  private Encode(Encoder encoder, Seq kids, Asked asked) {
    this.encoder = encoder;
    this.kids = kids;
    this.asked = asked;
  }

  public static Encode of(Encoder encoder, Expression scored, List features, Asked asked) {
    List kids = new ArrayList();
    kids.add(Wanted.TRUE);
    kids.add(scored);
    kids.addAll(features);
    return new Encode(encoder, Lists.seq(kids), asked);
  }

  public boolean isGuarded() {
    return !Wanted.isTrue(kid(0));
  }

  public Encoder encoder() {
    return encoder;
  }

  public List features() {
    return Lists.list(kids).subList(PARTS, kids.size());
  }

  /** Which rows are to be scored; null for all. */
  public Expression condition() {
    return Wanted.isTrue(kid(1)) && !isGuarded() ? null : new And(kid(0), kid(1));
  }

  public Expression guarded(Expression condition) {
    List all = Lists.list(kids);
    all.set(0, condition);
    return new Encode(encoder, Lists.seq(all), asked);
  }

  public Asked asked() {
    return asked;
  }

  public Expression of(Asked asked, Encoder encoder) {
    return new Encode(encoder, kids, asked);
  }

  public Seq children() {
    return kids;
  }

  public Seq alwaysEvaluatedInputs() {
    return condition() == null ? kids : Lists.seq(Lists.list(kids).subList(0, 1));
  }

  public ConditionalExpression withNewAlwaysEvaluatedInputs(Seq changed) {
    List all = Lists.list(kids);
    for (int i = 0; i < changed.size(); i++) all.set(i, changed.apply(i));
    return new Encode(encoder, Lists.seq(all), asked);
  }

  public Seq branchGroups() {
    return Lists.seq(new ArrayList());
  }

  public boolean foldable() {
    return false;
  }

  public boolean nullable() {
    return true;
  }

  public DataType dataType() {
    return BinaryType$.MODULE$;
  }

  public TreeNode withNewChildrenInternal(IndexedSeq changed) {
    return new Encode(encoder, (Seq) changed, asked);
  }

  public int productArity() {
    return 3;
  }

  public Object productElement(int i) {
    return i == 0 ? encoder : i == 1 ? kids : asked;
  }

  public boolean canEqual(Object other) {
    return other instanceof Encode;
  }

  /** An encoder equals itself alone: Python makes one for a model and hands it out. */
  public boolean equals(Object other) {
    return other instanceof Encode && encoder.equals(((Encode) other).encoder) && kids.equals(((Encode) other).kids);
  }

  public int hashCode() {
    return 31 * encoder.hashCode() + kids.hashCode();
  }

  public String prettyName() {
    return "encode";
  }

  /** In a plan everything. In the name of a column that is given none, whose attributes Spark has made pretty, the features alone. */
  public String toString() {
    List texts = new ArrayList();
    boolean named = false;
    for (int i = PARTS; i < kids.size(); i++) {
      texts.add(kid(i).toString());
      named |= Wanted.isPretty(kid(i));
    }
    String features = String.join(", ", texts);
    if (named) return features;
    String when = isGuarded() ? " where " + kid(0) : "";
    return "encode(" + (asked == null ? "" : asked + ": ") + features + when + ")";
  }

  private Expression kid(int i) {
    return (Expression) kids.apply(i);
  }

  public Object eval(InternalRow input) {
    if (!Boolean.TRUE.equals(kid(0).eval(input)) || !Boolean.TRUE.equals(kid(1).eval(input))) return null;
    byte[] row = encoder.row();
    boolean fits = true;
    for (int part = 0; part < kids.size() - PARTS; part++) {
      Expression e = kid(part + PARTS);
      Object value = e.eval(input);
      String kind = encoder.kind(part);
      if (kind.equals("tensor")) {
        fits &= value != null && tensor(row, part, value, e.dataType());
      } else if (kind.equals("numbers")) {
        ArrayData array = (ArrayData) value;
        DataType element = ((ArrayType) e.dataType()).elementType();
        if (element instanceof DecimalType) {
          DecimalType decimal = (DecimalType) element;
          fits &= encoder.decimals(row, part, array, decimal.precision(), decimal.scale());
        } else {
          fits &= encoder.numbers(row, part, array, Values.elements(element));
        }
      } else if (kind.equals("bytes")) {
        fits &= encoder.bytes(row, part, (byte[]) value);
      } else if (kind.equals("category")) {
        if (value instanceof Number) encoder.category(row, part, ((Number) value).longValue());
        else encoder.category(row, part, (UTF8String) value);
      } else if (value != null && kind.equals("time")) {
        encoder.time(row, part, e.dataType() instanceof DateType ? ((Integer) value).doubleValue() * 86400.0 : ((Long) value).doubleValue() * 1e-6);
      } else if (value != null && kind.equals("number")) {
        fits &= encoder.number(row, part, value instanceof Boolean ? (((Boolean) value).booleanValue() ? 1 : 0)
            : value instanceof Decimal ? Values.decimal((Decimal) value) : ((Number) value).doubleValue());
      } else if (value != null) {
        encoder.raw(row, part, value instanceof Boolean ? (((Boolean) value).booleanValue() ? 1 : 0) : ((Number) value).longValue());
      }
    }
    return fits ? row : null;
  }

  private boolean tensor(byte[] row, int part, Object value, DataType type) {
    if (type instanceof ArrayType) {
      DataType element = ((ArrayType) type).elementType();
      if (!(element instanceof DecimalType)) return encoder.tensor(part).put(row, (ArrayData) value, Values.elements(element));
      return encoder.tensor(part).put(row, (ArrayData) value, ((DecimalType) element).precision(), ((DecimalType) element).scale());
    }
    if (value instanceof byte[]) return encoder.tensor(part).put(row, (byte[]) value);
    if (value instanceof Decimal) return encoder.tensor(part).put(row, (Decimal) value);
    if (value instanceof Boolean) return encoder.tensor(part).put(row, ((Boolean) value).booleanValue() ? 1L : 0L);
    if (type instanceof FractionalType) return encoder.tensor(part).put(row, ((Number) value).doubleValue());
    return encoder.tensor(part).put(row, ((Number) value).longValue());
  }

  public ExprCode doGenCode(CodegenContext ctx, ExprCode ev) {
    String object = ctx.addReferenceObj("encoder", encoder, "dlsql.Encoder");
    String fits = ctx.addMutableState("boolean", "fits", ctx.addMutableState$default$3(), true, ctx.addMutableState$default$5());
    String row = ctx.freshName("row");
    List steps = new ArrayList();
    for (int part = 0; part < kids.size() - PARTS; part++) steps.add(step(ctx, object, row, part, fits));
    scala.Tuple2 argument = new scala.Tuple2("byte[]", row);
    List arguments = new ArrayList();
    arguments.add(argument);
    String all = ctx.splitExpressionsWithCurrentInputs(Lists.seq(steps), "encode", Lists.seq(arguments), "void",
        ctx.splitExpressionsWithCurrentInputs$default$5(), ctx.splitExpressionsWithCurrentInputs$default$6());
    ExprCode scored = new And(kid(0), kid(1)).genCode(ctx);
    String code = scored.code().toString() + "\n"
        + "boolean " + ev.isNull() + " = true;\n"
        + "byte[] " + ev.value() + " = null;\n"
        + "if (!" + scored.isNull() + " && " + scored.value() + ") {\n"
        + "  byte[] " + row + " = " + object + ".row();\n"
        + "  " + fits + " = true;\n"
        + all + "\n"
        + "  if (" + fits + ") {\n    " + ev.isNull() + " = false;\n    " + ev.value() + " = " + row + ";\n  }\n"
        + "}\n";
    return new ExprCode(block(code), ev.isNull(), ev.value());
  }

  /** The statement that puts one value into the row. */
  private String step(CodegenContext ctx, String object, String row, int part, String fits) {
    Expression e = kid(part + PARTS);
    ExprCode given = e.genCode(ctx);
    String kind = encoder.kind(part), to = "(" + row + ", " + part + ", ";
    String value = given.value().toString();
    String orNull = "(" + given.isNull() + " ? null : " + value + ")";
    String put;
    if (kind.equals("tensor")) {
      put = fits + " &= !" + given.isNull() + " && " + object + ".tensor(" + part + ").put(" + row + ", " + asTensor(e.dataType(), value) + ");";
    } else if (kind.equals("numbers")) {
      DataType element = ((ArrayType) e.dataType()).elementType();
      if (element instanceof DecimalType) {
        DecimalType decimal = (DecimalType) element;
        put = fits + " &= " + object + ".decimals" + to + orNull + ", " + decimal.precision() + ", " + decimal.scale() + ");";
      } else {
        put = fits + " &= " + object + ".numbers" + to + orNull + ", " + Values.elements(element) + ");";
      }
    } else if (kind.equals("bytes")) {
      put = fits + " &= " + object + ".bytes" + to + orNull + ");";
    } else if (kind.equals("category")) {
      put = e.dataType() instanceof StringType ? object + ".category" + to + orNull + ");"
          : "if (" + given.isNull() + ") " + object + ".category" + to + "(UTF8String) null); else " + object + ".category" + to + "(long) " + value + ");";
    } else {
      DataType type = e.dataType();
      boolean raw = kind.equals("raw");
      String number = type instanceof BooleanType ? "(" + value + (raw ? " ? 1L : 0L)" : " ? 1.0 : 0.0)")
          : type instanceof DecimalType ? "dlsql.Values.decimal(" + value + ")"
          : !kind.equals("time") ? (raw ? "(long) " : "(double) ") + value
          : type instanceof DateType ? "(double) " + value + " * 86400.0" : "(double) " + value + " * 1.0E-6";
      String fit = kind.equals("number") ? fits + " &= " : "";
      put = "if (!" + given.isNull() + ") " + fit + object + "." + kind + to + number + ");";
    }
    return given.code().toString() + "\n" + put + "\n";
  }

  /** The arguments of TensorPart's `put` that a value of a type makes. */
  private static String asTensor(DataType type, String value) {
    if (type instanceof ArrayType) {
      DataType element = ((ArrayType) type).elementType();
      if (!(element instanceof DecimalType)) return value + ", " + Values.elements(element);
      return value + ", " + ((DecimalType) element).precision() + ", " + ((DecimalType) element).scale();
    }
    if (type instanceof BinaryType || type instanceof DecimalType) return value;
    return type instanceof BooleanType ? "(" + value + " ? 1L : 0L)" : (type instanceof FractionalType ? "(double) " : "(long) ") + value;
  }

  public static Block block(String code) {
    List parts = new ArrayList();
    parts.add(code);
    return new CodeBlock(Lists.seq(parts), Lists.seq(new ArrayList()));
  }
}
