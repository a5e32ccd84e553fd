/* How many primes are there up to SIZE? */
#include "common/table.h"

#include <math.h>

/* Numbers that are sieved at once: few enough to stay in a processor's cache. */
#define SEGMENT (1LL << 17)

/* By trial division: dearer, the larger the number. */
static int is_prime(long long number)
{
    for (long long divisor = 2; divisor * divisor <= number; divisor++)
        if (number % divisor == 0)
            return 0;
    return number > 1;
}

/* How many primes there are from first up to, and without, last. */
static long long count(long long first, long long last)
{
    long long found = 0;

    work_begin();
    for (long long number = first; number < last; number++)
        found += is_prime(number);
    work_end(last - first);
    return found;
}

/* Try all the numbers, one after the other. */
static long long standalone(long long size)
{
    return count(2, size + 1);
}

/* An equal part for each rank. Equal in numbers, that is: the last rank has the dear ones, and the others wait for it. */
static long long cluster(long long size)
{
    long long found = count(2 + (size - 1) * rank / ranks, 2 + (size - 1) * (rank + 1) / ranks), total = 0;
    long long *all = malloc(ranks * sizeof *all);

    MPI_Gather(&found, 1, MPI_LONG_LONG, all, 1, MPI_LONG_LONG, 0, MPI_COMM_WORLD);
    for (int i = 0; rank == 0 && i < ranks; i++)
        total += all[i];
    free(all);
    return total;
}

/* The same as count(), by crossing out the multiples of the small primes, as Eratosthenes did. marks has SEGMENT bytes. */
static long long count_segment(long long first, long long last, const char *composite, long long root, char *marks)
{
    long long found = 0;

    memset(marks, 0, SEGMENT);
    for (long long prime = 2; prime <= root; prime++) {
        long long multiple = prime * prime;

        if (composite[prime])
            continue;
        if (multiple < first)
            multiple = (first + prime - 1) / prime * prime;
        for (; multiple < last; multiple += prime)
            marks[multiple - first] = 1;
    }
    for (long long number = first; number < last; number++)
        found += !marks[number - first];
    return found;
}

/* Cross out multiples instead of trying divisors, and deal the segments out like cards, so that each rank gets cheap and dear
   ones alike. The few primes up to sqrt(size) each rank finds by itself: that is cheaper than to be sent them. The only message
   is the sum. */
static long long efficient(long long size)
{
    long long found = 0, total = 0, root = (long long)sqrt((double)size) + 1;
    char *composite = calloc(root + 1, 1), *marks = malloc(SEGMENT);

    work_begin();
    for (long long number = 2; number * number <= root; number++)
        for (long long multiple = number * number; !composite[number] && multiple <= root; multiple += number)
            composite[multiple] = 1;
    work_end(0);
    for (long long first = 2 + rank * SEGMENT; first <= size; first += ranks * SEGMENT) {
        long long last = first + SEGMENT < size + 1 ? first + SEGMENT : size + 1;

        work_begin();
        found += count_segment(first, last, composite, root, marks);
        work_end(last - first);
    }
    MPI_Reduce(&found, &total, 1, MPI_LONG_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    free(composite);
    free(marks);
    return total;
}

int main(int argc, char **argv)
{
    long long size = start(argc, argv, 5000000);
    long long found = form == STANDALONE ? standalone(size) : form == CLUSTER ? cluster(size) : efficient(size);
    double wall = stop();
    char answer[64];

    snprintf(answer, sizeof answer, "primes=%lld", found);
    return finish(answer, wall);
}
