/* What are the factors of SIZE, a number made of two primes? The answer may come early: then the others should stop. */
#include "common/table.h"

#include <limits.h>

/* No divisor found: larger than any. */
#define NONE LLONG_MAX
/* Pairs of divisors to try between two looks at what the others have found. */
#define CHUNK (1LL << 16)

static long long smaller(long long a, long long b)
{
    return a < b ? a : b;
}

/* How many pairs of divisors 6k - 1 and 6k + 1, k = 1, 2, ..., reach the root of the number; all primes from 5 on are there. */
static long long pairs(long long number)
{
    long long low = 0, high = 3037000500; /* its square is the first above LLONG_MAX */

    while (high - low > 1) {
        long long middle = (low + high) / 2;

        if (middle * middle <= number)
            low = middle;
        else
            high = middle;
    }
    return low / 6 + 1;
}

/* The least divisor in the pairs from first up to, and without, last. */
static long long search(long long number, long long first, long long last)
{
    long long k, found = NONE;

    work_begin();
    for (k = first; k < last && found == NONE; k++) {
        if (number % (6 * k + 1) == 0 && 6 * k + 1 < number)
            found = 6 * k + 1;
        if (number % (6 * k - 1) == 0 && 6 * k - 1 < number)
            found = 6 * k - 1;
    }
    work_end(k > first ? k - first : 0);
    return found;
}

/* 2 or 3 if they divide the number. */
static long long easy(long long number)
{
    return number % 2 == 0 && number > 2 ? 2 : number % 3 == 0 && number > 3 ? 3 : NONE;
}

/* Try one pair after the other, and stop at the first that divides. */
static long long standalone(long long number)
{
    return smaller(easy(number), search(number, 1, pairs(number) + 1));
}

/* An equal part for each rank. All wait for those who search in vain, to the end of their parts. */
static long long cluster(long long number)
{
    long long all = pairs(number), least = NONE;
    long long found = smaller(easy(number), search(number, 1 + all * rank / ranks, 1 + all * (rank + 1) / ranks));

    MPI_Reduce(&found, &least, 1, MPI_LONG_LONG, MPI_MIN, 0, MPI_COMM_WORLD);
    return least;
}

/* All search from the small divisors upwards, a chunk each, and tell the others after each chunk what they found. Nobody waits
   for that answer (Iallreduce): it travels while the next chunk is searched. So the search ends one chunk after the divisor is
   found, whoever finds it. */
static long long efficient(long long number)
{
    long long all = pairs(number), answer = NONE, told, found;
    MPI_Request request = MPI_REQUEST_NULL;

    if (easy(number) != NONE)
        return easy(number);
    for (long long begin = 1; begin <= all; begin += CHUNK * ranks) {
        long long first = begin + rank * CHUNK;

        found = search(number, first, smaller(first + CHUNK, all + 1));
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        if (answer != NONE)
            /* Whatever is in this chunk is larger: all have searched everything below it. */
            return answer;
        told = found;
        MPI_Iallreduce(&told, &answer, 1, MPI_LONG_LONG, MPI_MIN, MPI_COMM_WORLD, &request);
    }
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    return answer;
}

int main(int argc, char **argv)
{
    /* 200000033 * 2000000011: the divisor is in the middle of what there is to try. */
    long long number = start(argc, argv, 400000068200000363);
    long long divisor = form == STANDALONE ? standalone(number) : form == CLUSTER ? cluster(number) : efficient(number);
    double wall = stop();
    char answer[96];

    if (divisor == NONE)
        snprintf(answer, sizeof answer, "factors=%lld", number);
    else
        snprintf(answer, sizeof answer, "factors=%lld*%lld", divisor, number / divisor);
    return finish(answer, wall);
}
