/* What all the examples do alike: read FORM and SIZE, print the result in one line, and tell who did how much of the work. */
#ifndef TABLE_H
#define TABLE_H

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum form { STANDALONE, CLUSTER, EFFICIENT };
static const char *const form_names[] = {"standalone", "cluster", "efficient"};

/* What one rank has done. Seconds of the processor, not on the clock: where ranks outnumber processors the clock would count
   the others' work, too. */
struct work {
    char host[MPI_MAX_PROCESSOR_NAME];
    double seconds, since;
    long long items;
};

static enum form form;
static int rank, ranks;
static struct work work;
static double began;

static double processor_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void work_begin(void)
{
    work.since = processor_seconds();
}

static void work_end(long long items)
{
    work.seconds += processor_seconds() - work.since;
    work.items += items;
}

/* Begin: sets form, rank and ranks, and returns SIZE. Ends with code 2 if the command line is no good. */
static long long start(int argc, char **argv, long long size)
{
    const char *complaint = NULL;
    char *end = "";
    int length;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    for (form = STANDALONE; argc > 1 && form <= EFFICIENT; form++)
        if (!strcmp(argv[1], form_names[form]))
            break;
    if (argc == 3)
        size = strtoll(argv[2], &end, 10);
    if (argc < 2 || argc > 3 || form > EFFICIENT || *end || size < 1)
        complaint = "usage: standalone|cluster|efficient [SIZE]";
    else if (form == STANDALONE && ranks > 1)
        complaint = "standalone is one process: without mpiexec, or with -n 1";
    if (complaint) {
        if (rank == 0)
            fprintf(stderr, "%s\n", complaint);
        MPI_Finalize();
        exit(2);
    }
    MPI_Get_processor_name(work.host, &length);
    MPI_Barrier(MPI_COMM_WORLD);
    began = MPI_Wtime();
    return size;
}

/* Stop the clock; call it before what only rank 0 does to show the answer. */
static double stop(void)
{
    return MPI_Wtime() - began;
}

/* End: print the answer, which rank 0 knows, and a line for each node. Returns what main() is to return. */
static int finish(const char *answer, double wall)
{
    struct work *all = malloc(ranks * sizeof work);
    long long everything = 0;
    double busy = 0;

    MPI_Gather(&work, sizeof work, MPI_BYTE, all, sizeof work, MPI_BYTE, 0, MPI_COMM_WORLD);
    for (int i = 0; rank == 0 && i < ranks; i++) {
        everything += all[i].items;
        busy += all[i].seconds;
    }
    if (rank == 0) {
        printf("result: %s\n%-16s%6s%10s%14s%9s\n", answer, "node", "ranks", "seconds", "items", "share");
        for (int i = 0; i < ranks; i++) {
            struct work sum = {.seconds = 0};
            int count = 0, seen = 0;

            for (int j = 0; j < ranks; j++) {
                if (strcmp(all[i].host, all[j].host))
                    continue;
                seen |= j < i;
                count++;
                sum.seconds += all[j].seconds;
                sum.items += all[j].items;
            }
            if (!seen)
                printf("%-16s%6d%10.3f%14lld%7.1f %%\n", all[i].host, count, sum.seconds, sum.items,
                       100.0 * sum.items / (everything ? everything : 1));
        }
        printf("%s: %d ranks, %.3f s on the clock, at work %.0f %% of it\n", form_names[form], ranks, wall, 100 * busy / (ranks * wall));
    }
    free(all);
    MPI_Finalize();
    return 0;
}

#endif
