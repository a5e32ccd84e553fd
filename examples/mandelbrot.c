/* The Mandelbrot set, SIZE pixels wide, as mandelbrot.png in the current folder. */
#include "common/table.h"

#include <stdint.h>

/* Steps after which a point that has not escaped counts as one of the set: black. */
#define LIMIT 255
static const double LEFT = -2.25, TOP = -1.125, WIDTH = 3.0, HEIGHT = 2.25;

static long long height(long long size)
{
    return size * 3 / 4 > 1 ? size * 3 / 4 : 1;
}

/* A row of pixels: after how many steps of z = z^2 + c each point c has escaped, or 0. Rows in the middle are dear. */
static void row(long long number, long long size, unsigned char *pixels)
{
    double cy = TOP + HEIGHT * (number + 0.5) / height(size);

    work_begin();
    for (long long column = 0; column < size; column++) {
        double cx = LEFT + WIDTH * (column + 0.5) / size, x = 0, y = 0;

        pixels[column] = 0;
        for (int step = 1; step <= LIMIT; step++) {
            double xx = x * x, yy = y * y;

            if (xx + yy > 4) {
                pixels[column] = step;
                break;
            }
            y = 2 * x * y + cy;
            x = xx - yy + cx;
        }
    }
    work_end(1);
}

/* Compute row by row. */
static void standalone(long long size, unsigned char *picture)
{
    for (long long number = 0; number < height(size); number++)
        row(number, size, picture + number * size);
}

/* Each rank computes a band of the picture: whoever has the middle has almost all of the work. */
static void cluster(long long size, unsigned char *picture)
{
    long long rows = height(size), first = rows * rank / ranks, last = rows * (rank + 1) / ranks;
    int *counts = malloc(ranks * sizeof *counts), *places = malloc(ranks * sizeof *places);
    unsigned char *band = malloc((last - first + 1) * size);

    for (int i = 0; i < ranks; i++) {
        places[i] = rows * i / ranks * size;
        counts[i] = rows * (i + 1) / ranks * size - places[i];
    }
    for (long long number = first; number < last; number++)
        row(number, size, band + (number - first) * size);
    MPI_Gatherv(band, counts[rank], MPI_BYTE, picture, counts, places, MPI_BYTE, 0, MPI_COMM_WORLD);
    free(band);
    free(places);
    free(counts);
}

/* Rank 0 hands out row after row to whoever is done with the last one. So a fast node does more of them than a slow one, and all
   are done at the same time. It costs a message for each row and rank 0, which computes nothing: worth it as soon as there are a
   few ranks. A message's tag is the number of the row, or NOTHING. */
static void efficient(long long size, unsigned char *picture)
{
    long long rows = height(size);
    int nothing = rows;
    unsigned char *pixels = malloc(size);
    MPI_Status status;

    if (ranks == 1)
        standalone(size, picture);
    else if (rank) {
        int done = nothing;

        for (;;) {
            MPI_Send(pixels, done == nothing ? 0 : size, MPI_BYTE, 0, done, MPI_COMM_WORLD);
            MPI_Recv(NULL, 0, MPI_BYTE, 0, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
            if ((done = status.MPI_TAG) == nothing)
                break;
            row(done, size, pixels);
        }
    } else
        /* Each rank asks once before its first row and once after each row: as many questions as answers. */
        for (int number = 0; number < rows + ranks - 1; number++) {
            MPI_Recv(pixels, size, MPI_BYTE, MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
            MPI_Send(NULL, 0, MPI_BYTE, status.MPI_SOURCE, number < rows ? number : nothing, MPI_COMM_WORLD);
            if (status.MPI_TAG != nothing)
                memcpy(picture + status.MPI_TAG * size, pixels, size);
        }
    free(pixels);
}

/* The CRC of PNG chunks (ISO/IEC 15948, annex D), bit by bit; begins with and returns the register. */
static uint32_t crc(uint32_t value, const unsigned char *data, size_t length)
{
    while (length--) {
        value ^= *data++;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? 0xEDB88320 ^ value >> 1 : value >> 1;
    }
    return value;
}

/* The checksum of zlib (RFC 1950, section 8.2); begins with 1. */
static uint32_t adler32(uint32_t value, const unsigned char *data, size_t length)
{
    uint32_t a = value & 0xFFFF, b = value >> 16;

    while (length--) {
        a = (a + *data++) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static unsigned char *big_endian(unsigned char *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = value >> (24 - 8 * i);
    return to + 4;
}

static void chunk(FILE *file, const char *type, const unsigned char *data, size_t length)
{
    unsigned char number[4];

    big_endian(number, length);
    fwrite(number, 1, 4, file);
    fwrite(type, 1, 4, file);
    fwrite(data, 1, length, file);
    big_endian(number, ~crc(crc(0xFFFFFFFF, (const unsigned char *)type, 4), data, length));
    fwrite(number, 1, 4, file);
}

/* Write grey pixels as a PNG file, not compressed: each row is a stored block of its own (RFC 1951, section 3.2.4). */
static int write_png(const char *name, const unsigned char *picture, long long width, long long rows)
{
    unsigned char header[13] = {0}, *data = malloc(2 + rows * (width + 6) + 4), *to = data;
    uint32_t sum = 1;
    FILE *file = fopen(name, "wb");

    if (!file)
        return perror(name), 1;
    big_endian(big_endian(header, width), rows);
    header[8] = 8; /* bits; colour type 0 is grey */
    *to++ = 0x78;  /* a zlib stream (RFC 1950, section 2.2) */
    *to++ = 0x01;
    for (long long i = 0; i < rows; i++) {
        uint16_t length = width + 1;

        *to++ = i == rows - 1;
        *to++ = length & 0xFF;
        *to++ = length >> 8;
        *to++ = ~length & 0xFF;
        *to++ = (uint16_t)~length >> 8;
        *to = 0; /* no filter */
        memcpy(to + 1, picture + i * width, width);
        sum = adler32(sum, to, length);
        to += length;
    }
    to = big_endian(to, sum);
    fwrite("\x89PNG\r\n\x1a\n", 1, 8, file);
    chunk(file, "IHDR", header, sizeof header);
    chunk(file, "IDAT", data, to - data);
    chunk(file, "IEND", data, 0);
    free(data);
    return fclose(file);
}

int main(int argc, char **argv)
{
    long long size = start(argc, argv, 1280);
    unsigned char *picture;
    char answer[96];
    double wall;

    if (size > 65534) { /* what a stored block holds */
        if (rank == 0)
            fprintf(stderr, "mandelbrot: SIZE is 65534 at most\n");
        MPI_Finalize();
        return 2;
    }
    picture = malloc(rank ? 1 : size * height(size));
    if (form == STANDALONE)
        standalone(size, picture);
    else if (form == CLUSTER)
        cluster(size, picture);
    else
        efficient(size, picture);
    wall = stop();
    if (rank == 0) {
        if (write_png("mandelbrot.png", picture, size, height(size)))
            MPI_Abort(MPI_COMM_WORLD, 1);
        snprintf(answer, sizeof answer, "mandelbrot=%lldx%lld adler32=%08x", size, height(size), adler32(1, picture, size * height(size)));
    }
    free(picture);
    return finish(answer, wall);
}
