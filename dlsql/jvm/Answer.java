package dlsql;

import java.util.ArrayList;
import java.util.List;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.catalyst.expressions.codegen.*;
import org.apache.spark.sql.catalyst.trees.TreeNode;
import org.apache.spark.sql.types.DataType;
import scala.collection.immutable.IndexedSeq;
import scala.collection.immutable.Seq;

/** What a function shows of a network's outputs: "label", "map" or "whole". Functions of one model share the call that gave them. */
public class Answer extends Expression implements java.io.Serializable {
  private final Expression outputs;
  private final Answers answers;
  private final String part;
  private final DataType type;

  public Answer(Expression outputs, Answers answers, String part, DataType type) {
    this.outputs = outputs;
    this.answers = answers;
    this.part = part;
    this.type = type;
  }

  /** What reads a number, where that is what is shown; else null. */
  Answers number() {
    return part.equals("label") && answers.isNumber() ? answers : null;
  }

  /** The same part of what another version gives. */
  Answer of(Expression outputs, Answers answers) {
    return new Answer(outputs, answers, part, type);
  }

  public Seq children() {
    List one = new ArrayList();
    one.add(outputs);
    return Lists.seq(one);
  }

  public boolean nullable() {
    return true;
  }

  public DataType dataType() {
    return type;
  }

  public TreeNode withNewChildrenInternal(IndexedSeq changed) {
    return new Answer((Expression) changed.apply(0), answers, part, type);
  }

  public int productArity() {
    return 3;
  }

  public Object productElement(int i) {
    return i == 0 ? outputs : i == 1 ? (Object) answers : part;
  }

  public boolean canEqual(Object other) {
    return other instanceof Answer;
  }

  public boolean equals(Object other) {
    if (!(other instanceof Answer)) return false;
    Answer that = (Answer) other;
    return outputs.equals(that.outputs) && answers.equals(that.answers) && part.equals(that.part);
  }

  public int hashCode() {
    return 31 * outputs.hashCode() + part.hashCode();
  }

  public String prettyName() {
    return part;
  }

  /** The name of a column that is given none. */
  public String sql() {
    return outputs.toString();
  }

  public String toString() {
    return part + "(" + outputs + ")";
  }

  public Object eval(InternalRow row) {
    Object given = outputs.eval(row);
    return given == null ? null : answers.answer(part, (byte[]) given);
  }

  public ExprCode doGenCode(CodegenContext ctx, ExprCode ev) {
    ExprCode given = outputs.genCode(ctx);
    String object = ctx.addReferenceObj("answers", answers, "dlsql.Answers");
    String java = CodeGenerator.javaType(type), boxed = CodeGenerator.boxedType(type);
    boolean isNumber = number() != null;
    String answer = ctx.freshName("answer");
    String code = given.code().toString() + "\n"
        + "boolean " + ev.isNull() + " = " + given.isNull() + ";\n"
        + java + " " + ev.value() + " = " + CodeGenerator.defaultValue(type, false) + ";\n"
        + "if (!" + ev.isNull() + ") {\n"
        + (isNumber ? "  " + ev.value() + " = " + object + ".number(" + given.value() + ", 0);\n"
            : "  Object " + answer + " = " + object + ".answer(\"" + part + "\", " + given.value() + ");\n"
                + "  " + ev.isNull() + " = " + answer + " == null;\n"
                + "  if (!" + ev.isNull() + ") " + ev.value() + " = (" + boxed + ") " + answer + ";\n")
        + "}\n";
    return new ExprCode(Encode.block(code), ev.isNull(), ev.value());
  }
}
