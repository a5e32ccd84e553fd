/* How often does each word occur in a text of SIZE lines?
   The text is made up, always the same one. Think of it as a file: a line can be read without those before it. */
#include "common/table.h"

#include <ctype.h>
#include <stdint.h>

#define WORDS 10 /* of a line */
#define LINE 64  /* bytes that are enough for one */

struct entry {
    char word[24];
    int64_t count;
};

/* A hash table with as many places as a power of two; a place without a letter is free. */
struct counts {
    struct entry *places;
    size_t size, used;
};

/* A checksum of a word (FNV-1a, of Fowler, Noll and Vo, 32 bits). */
static uint32_t fnv(const char *word)
{
    uint32_t value = 0x811C9DC5;

    while (*word)
        value = (value ^ (unsigned char)*word++) * 0x01000193;
    return value;
}

static void add(struct counts *counts, const char *word, int64_t count)
{
    size_t place;

    if (counts->used * 2 >= counts->size) {
        struct counts larger = {calloc(counts->size ? counts->size * 2 : 1024, sizeof(struct entry)), counts->size ? counts->size * 2 : 1024, 0};

        for (place = 0; place < counts->size; place++)
            if (*counts->places[place].word)
                add(&larger, counts->places[place].word, counts->places[place].count);
        free(counts->places);
        *counts = larger;
    }
    place = fnv(word) % counts->size;
    while (*counts->places[place].word && strcmp(counts->places[place].word, word))
        place = (place + 1) % counts->size;
    if (!*counts->places[place].word) {
        counts->used++;
        strcpy(counts->places[place].word, word);
    }
    counts->places[place].count += count;
}

/* Append a line of the text, and return its end: like in real ones, some words are frequent and most are rare. A linear
   congruential generator (Numerical Recipes, "quick and dirty") chooses them; its high bits are the random ones. */
static char *line(long long number, char *to)
{
    uint32_t state = (uint32_t)number * 2654435761u + 1;
    char *begin = to;

    for (int i = 0; i < WORDS; i++) {
        uint32_t word;

        state = state * 1664525 + 1013904223;
        word = (state >> 16) * (state >> 16) >> 20;
        for (int part = word % 70, syllable = 0; syllable < 2; part = word / 70, syllable++) {
            *to++ = "bdfgklmnprstvz"[part % 14];
            *to++ = "aeiou"[part / 14];
        }
        *to++ = ' ';
    }
    *begin = toupper(*begin);
    to[-1] = '.';
    *to++ = '\n';
    *to = 0;
    return to;
}

/* The lines from first up to, and without, last. */
static char *text(long long first, long long last)
{
    char *begin = malloc((last - first) * LINE + 1), *end = begin;

    *begin = 0;
    for (long long number = first; number < last; number++)
        end = line(number, end);
    return begin;
}

/* Count the words of a text. What is longer than a table's entry is cut off there. */
static struct counts count(const char *text)
{
    struct counts counts = {0};
    long long words = 0;

    work_begin();
    while (*text) {
        char word[sizeof counts.places->word] = "";
        size_t length = 0;

        for (; isalpha((unsigned char)*text); text++)
            if (length < sizeof word - 1)
                word[length++] = tolower((unsigned char)*text);
        if (length) {
            add(&counts, word, 1);
            words++;
        } else
            text++;
    }
    work_end(words);
    return counts;
}

/* Send a whole table to a rank, and forget it. */
static void send_counts(struct counts *counts, int to)
{
    MPI_Send(counts->places, counts->size * sizeof(struct entry), MPI_BYTE, to, 0, MPI_COMM_WORLD);
    free(counts->places);
    *counts = (struct counts){0};
}

/* Add the table of another rank to one's own. */
static void receive_counts(struct counts *counts, int from)
{
    MPI_Status status;
    struct entry *other;
    int bytes;

    MPI_Probe(from, 0, MPI_COMM_WORLD, &status);
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    other = malloc(bytes ? bytes : 1);
    MPI_Recv(other, bytes, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (size_t place = 0; place < bytes / sizeof *other; place++)
        if (*other[place].word)
            add(counts, other[place].word, other[place].count);
    free(other);
}

/* Read it all, and count. */
static struct counts standalone(long long size)
{
    char *all = text(0, size);
    struct counts counts = count(all);

    free(all);
    return counts;
}

/* Rank 0 reads the text and sends each rank a part; it hears from all what they counted, and adds that up alone. */
static struct counts cluster(long long size)
{
    struct counts counts;
    char *part = NULL;
    int bytes;

    for (int i = ranks - 1; rank == 0 && i >= 0; i--) {
        part = text(size * i / ranks, size * (i + 1) / ranks);
        if (i) {
            MPI_Send(part, strlen(part) + 1, MPI_CHAR, i, 0, MPI_COMM_WORLD);
            free(part);
        }
    }
    if (rank) {
        MPI_Status status;

        MPI_Probe(0, 0, MPI_COMM_WORLD, &status);
        MPI_Get_count(&status, MPI_CHAR, &bytes);
        part = malloc(bytes);
        MPI_Recv(part, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    counts = count(part);
    free(part);
    if (rank)
        send_counts(&counts, 0);
    for (int i = 1; rank == 0 && i < ranks; i++)
        receive_counts(&counts, i);
    return counts;
}

/* Take the work to the data: each rank reads its own lines, so that the text never crosses the network. The tables are added up
   in a tree: half of the ranks add that of a neighbour at the same time, then a quarter, and so on. */
static struct counts efficient(long long size)
{
    char *part = text(size * rank / ranks, size * (rank + 1) / ranks);
    struct counts counts = count(part);

    free(part);
    for (int step = 1; step < ranks; step *= 2) {
        if (rank % (2 * step)) {
            send_counts(&counts, rank - step);
            break;
        }
        if (rank + step < ranks)
            receive_counts(&counts, rank + step);
    }
    return counts;
}

int main(int argc, char **argv)
{
    long long size = start(argc, argv, 1000000), words = 0;
    struct counts counts = form == STANDALONE ? standalone(size) : form == CLUSTER ? cluster(size) : efficient(size);
    double wall = stop();
    struct entry top = {"", 0};
    uint32_t checksum = 0;
    char answer[128];

    for (size_t place = 0; place < counts.size; place++) {
        struct entry one = counts.places[place];

        if (!*one.word)
            continue;
        words += one.count;
        checksum += fnv(one.word) * (uint32_t)one.count;
        if (one.count > top.count || (one.count == top.count && strcmp(one.word, top.word) < 0))
            top = one;
    }
    snprintf(answer, sizeof answer, "words=%lld distinct=%zu top=%s:%lld checksum=%08x", words, counts.used, top.word,
             (long long)top.count, checksum);
    free(counts.places);
    return finish(answer, wall);
}
