"""Statistics of windows: which there are, and two engines, numpy and machine code, that agree to the bit.

`columns` lists the statistics, `api` computes them, `cells` says how a slice is cut up for it, and the two engines
reduce its pixels. To add a statistic, write a file with its function here, and add an entry to `columns.STATISTICS`.
The file imports numpy inside the function, because help texts read the list and must not wait for numpy.

Rows of a slice are cut where a window starts or ends, and so are columns; each pixel is reduced once, into the cell
that it lies in, and windows are put together from cells, however much they overlap.

Results are the same to the bit on every machine: there are only element-wise ufuncs, `ufunc.reduce` and
`ufunc.reduceat` here, whose order follows from shapes alone. `dot`, `@` and `einsum` add in an order that depends on
the CPU, and may fuse multiplication with addition. The order of each sum is:

1. In a cell, rows `r, r + fold, r + 2 * fold, …` of each column are added one by one, for each `r < fold`; then these
   `fold` sums.
2. The columns of a cell, 129 at most, are added as `reduceat` does: the first, plus numpy's pairwise sum of the rest.
3. Cells are added to windows along rows, then along columns, in the same way.
"""
