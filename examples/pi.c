/* Pi is the area under 4 / (1 + x^2) from 0 to 1. SIZE is the number of strips it is cut into. */
#include "common/table.h"

#include <math.h>

static double height(double x)
{
    return 4 / (1 + x * x);
}

/* The area of some of the strips, each as high as the curve in its middle. The error shrinks with 1 / size^2. */
static double strips(long long first, long long last, long long size)
{
    double area = 0;

    work_begin();
    for (long long i = first; i < last; i++)
        area += height((i + 0.5) / size);
    work_end(last - first);
    return area / size;
}

/* All the strips, one after the other. */
static double standalone(long long size)
{
    return strips(0, size, size);
}

/* An equal part for each rank; rank 0 hears from one rank after the other. */
static double cluster(long long size)
{
    double area = strips(size * rank / ranks, size * (rank + 1) / ranks, size), other;

    if (rank)
        MPI_Send(&area, 1, MPI_DOUBLE, 0, 0, MPI_COMM_WORLD);
    for (int i = 1; rank == 0 && i < ranks; i++) {
        MPI_Recv(&other, 1, MPI_DOUBLE, i, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        area += other;
    }
    return area;
}

/* A better rule before more processors: parabolas (Simpson) instead of flat tops. Their error shrinks with the fourth power of
   their number at least, so that sqrt(size) of them are as good as size strips. And the parts are added up in a tree (reduce),
   which takes log2(ranks) steps instead of one for each rank. */
static double efficient(long long size)
{
    double area = 0, total = 0;
    long long parts = (long long)sqrt((double)size) + 1, first = parts * rank / ranks, last = parts * (rank + 1) / ranks;

    work_begin();
    for (long long i = first; i < last; i++)
        area += height((double)i / parts) + 4 * height((i + 0.5) / parts) + height((i + 1.0) / parts);
    area /= 6 * parts;
    work_end(3 * (last - first));
    MPI_Reduce(&area, &total, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    return total;
}

int main(int argc, char **argv)
{
    long long size = start(argc, argv, 100000000);
    double area = form == STANDALONE ? standalone(size) : form == CLUSTER ? cluster(size) : efficient(size), wall = stop();
    char answer[64];

    snprintf(answer, sizeof answer, "pi=%.11f", area);
    return finish(answer, wall);
}
