package dlsql;

import java.util.Iterator;
import java.util.List;
import org.apache.spark.sql.Column;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.Expression;
import org.apache.spark.sql.classic.ExpressionUtils;
import org.apache.spark.sql.functions;

/**
 * What training learns of numbers, of all columns in one pass. Spark's own aggregations of 500 columns took 13 s to plan and compile, each time
 * anew; and columns are named by their places, because one that PySpark makes takes half a millisecond.
 */
public final class Statistics {
  private static final int FIRST = 2;  // where the first column's numbers stand, after those of all rows
  // Of a column: how many numbers, their sum, their mean, the sum of squared deviations from it, the least, the largest. The sum of whole
  // numbers is exact, whatever tasks end first; the mean that stands beside it is good enough for the deviations alone.
  private static final int EACH = 6;

  /** The rows that hold no NaN and nothing infinite in these columns, numbers or lists of them; both are places, in JSON. */
  public static Dataset finite(org.apache.spark.sql.classic.Dataset rows, String numbers, String lists) {
    List bounded = new java.util.ArrayList();
    Column most = functions.lit(Double.valueOf(Double.POSITIVE_INFINITY)), least = functions.lit(Double.valueOf(Double.NEGATIVE_INFINITY));
    // NaN is larger than every other number in Spark. One comparison a number: a list of odd ones to look for takes three.
    for (Object one : Language.Python.columns(rows, numbers)) bounded.add(functions.abs(column(one)).lt(most));
    for (Object one : Language.Python.columns(rows, lists)) {
      bounded.add(functions.array_max(column(one)).lt(most));
      bounded.add(functions.array_min(column(one)).gt(least));
    }
    return bounded.isEmpty() ? rows : rows.where(all(bounded));
  }

  /** Each of the conditions holds, or is of a NULL. A tree whose depth is the logarithm of their number: Spark descends into it by recursion. */
  private static Column all(List conditions) {
    int n = conditions.size();
    if (n > 1) return all(conditions.subList(0, n / 2)).and(all(conditions.subList(n / 2, n)));
    return functions.coalesce(Lists.seq(java.util.Arrays.asList(new Object[] {conditions.get(0), functions.lit(Boolean.TRUE)})));
  }

  private static Column column(Object attribute) {
    return ExpressionUtils.column((Expression) attribute);
  }

  /**
   * How many rows count and how many do not, then of each column the numbers that EACH tells of, NULL aside; in JSON.
   *
   * @param columns their places, which may repeat.
   * @param checked places in these: rows with NaN or an infinite number there do not count.
   */
  public static String of(org.apache.spark.sql.classic.Dataset rows, String columns, String checked) {
    List given = Language.Python.columns(rows, columns);
    Column[] selected = new Column[given.size()];
    for (int i = 0; i < selected.length; i++) selected[i] = column(given.get(i)).cast("double").as("c" + i);
    Dataset doubles = rows.select(selected);
    org.apache.spark.api.java.JavaRDD read = ((org.apache.spark.sql.classic.Dataset) doubles).queryExecution().toRdd().toJavaRDD();
    Merge merge = new Merge();
    return java.util.Arrays.toString((double[]) read.mapPartitions(new Partition(selected.length, Language.Python.whole(checked)))
        .treeAggregate(empty(selected.length), merge, merge, 2));
  }

  private static double[] empty(int columns) {
    double[] all = new double[FIRST + EACH * columns];
    for (int at = FIRST; at < all.length; at += EACH) {
      all[at + 4] = Double.POSITIVE_INFINITY;
      all[at + 5] = Double.NEGATIVE_INFINITY;
    }
    return all;
  }

  /** Welford's algorithm (1962). */
  public static class Partition implements org.apache.spark.api.java.function.FlatMapFunction {
    private final int columns;
    private final int[] checked;

    Partition(int columns, int[] checked) {
      this.columns = columns;
      this.checked = checked;
    }

    public Iterator call(Object rows) {
      double[] all = empty(columns);
      for (Iterator each = (Iterator) rows; each.hasNext();) {
        InternalRow row = (InternalRow) each.next();
        if (isFinite(row)) add(row, all);
        else all[1]++;
      }
      return java.util.Collections.singletonList(all).iterator();
    }

    private boolean isFinite(InternalRow row) {
      for (int column : checked) {
        if (!row.isNullAt(column) && !Encoder.isFinite(row.getDouble(column))) return false;
      }
      return true;
    }

    private void add(InternalRow row, double[] all) {
      all[0]++;
      for (int column = 0, at = FIRST; column < columns; column++, at += EACH) {
        if (row.isNullAt(column)) continue;
        double value = row.getDouble(column), away = value - all[at + 2];
        all[at + 1] += value;
        all[at + 2] += away / ++all[at];
        all[at + 3] += away * (value - all[at + 2]);
        if (value < all[at + 4]) all[at + 4] = value;
        if (value > all[at + 5]) all[at + 5] = value;
      }
    }
  }

  /** Chan, Golub and LeVeque (1979). */
  public static class Merge implements org.apache.spark.api.java.function.Function2 {
    public Object call(Object one, Object other) {
      double[] a = (double[]) one, b = (double[]) other;
      for (int at = 0; at < FIRST; at++) a[at] += b[at];
      for (int at = FIRST; at < a.length; at += EACH) {
        double n = a[at] + b[at], away = b[at + 2] - a[at + 2];
        if (b[at] == 0) continue;
        a[at + 1] += b[at + 1];
        a[at + 2] += away * (b[at] / n);
        a[at + 3] += b[at + 3] + away * away * (a[at] / n * b[at]);
        a[at] = n;
        a[at + 4] = Math.min(a[at + 4], b[at + 4]);
        a[at + 5] = Math.max(a[at + 5], b[at + 5]);
      }
      return a;
    }
  }
}
