/* A linear layer whose products are int16: out = x W' + bias, for encoders on CPUs without fast bfloat16.

One instruction multiplies pairs of int16 and adds them in int32, so that a product takes half the instructions of
float32. Each row of x has a scale of its own, and so has each output. Sums of integers are exact: a row's result does
not depend on the other rows, the number of threads, or the width of the vectors.

Letters: M rows, N outputs, K inputs (an even number). The weights are packed in panels of `nextvec_linear_panel`
outputs, [N / panel][K / 2][panel][2].
*/
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BW__)
#include <immintrin.h>
#define LANES 16
typedef __m512i integers;
#define LOAD(address) _mm512_loadu_si512(address)
#define STORE(address, numbers) _mm512_storeu_si512(address, numbers)
#define BROADCAST(pair) _mm512_set1_epi32(pair)
#define ZERO() _mm512_setzero_si512()
#if defined(__AVX512VNNI__)
#define ADD_PRODUCTS(sum, x, w) _mm512_dpwssd_epi32(sum, x, w)
#else
#define ADD_PRODUCTS(sum, x, w) _mm512_add_epi32(sum, _mm512_madd_epi16(x, w))
#endif
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
typedef __m256i integers;
#define LOAD(address) _mm256_loadu_si256((const __m256i *)(address))
#define STORE(address, numbers) _mm256_storeu_si256((__m256i *)(address), numbers)
#define BROADCAST(pair) _mm256_set1_epi32(pair)
#define ZERO() _mm256_setzero_si256()
#define ADD_PRODUCTS(sum, x, w) _mm256_add_epi32(sum, _mm256_madd_epi16(x, w))
#endif

#if defined(LANES)
enum { PANEL = 2 * LANES, TILE_ROWS = 6, BLOCK_ROWS = 48 };
#else
enum { PANEL = 0 };
#endif

/* Outputs per panel of the packed weights; 0 if this CPU has no fast int16 products. */
long nextvec_linear_panel(void) { return PANEL; }

#if defined(LANES)
/* Round a row to integers of at most `limit`. Return the scale of one unit; NaN if a number is not finite. */
static float quantize(int16_t *restrict to, const float *restrict row, long K, float limit) {
    /* Without their sign, the bits of floats are ordered as the floats are; NaN and infinity are the largest. */
    int32_t largest = 0;
    for (long k = 0; k < K; k++) {
        int32_t bits;
        memcpy(&bits, row + k, sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    float maximum;
    memcpy(&maximum, &largest, sizeof maximum);
    float factor = largest ? limit / maximum : 0;
    /* The reciprocal of a number near zero is infinite: such a row counts as zero. */
    if (largest >= 0x7f800000 || isinf(factor)) {
        memset(to, 0, K * sizeof *to);
        return largest >= 0x7f800000 ? NAN : 0;
    }
    for (long k = 0; k < K; k++) to[k] = (int16_t)rintf(row[k] * factor);
    return maximum / limit;
}

/* Compute one panel of `rows` rows. The sums stay in registers: with six rows, no other is left. */
static inline __attribute__((always_inline)) void multiply_tile(float *out, const int16_t *x, const int16_t *panel,
                                                                const float *row_scales, const float *scales,
                                                                const float *bias, long N, long K, const int rows) {
    integers sums[TILE_ROWS][2];
    /* Every loop over rows is unrolled: an array with a variable index would be stored in memory. */
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) sums[row][0] = sums[row][1] = ZERO();
    for (long k = 0; k < K; k += 2) {
        integers left = LOAD(panel + k * PANEL), right = LOAD(panel + k * PANEL + PANEL);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            int32_t two;
            memcpy(&two, x + row * K + k, sizeof two);
            integers pair = BROADCAST(two);
            sums[row][0] = ADD_PRODUCTS(sums[row][0], pair, left);
            sums[row][1] = ADD_PRODUCTS(sums[row][1], pair, right);
            /* Keep this order: compilers collect all products before the additions, and then have too few registers. */
            __asm__("" : "+x"(sums[row][0]), "+x"(sums[row][1]));
        }
    }
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        int32_t numbers[PANEL];
        STORE(numbers, sums[row][0]);
        STORE(numbers + LANES, sums[row][1]);
        for (int n = 0; n < PANEL; n++) out[row * N + n] = numbers[n] * (row_scales[row] * scales[n]) + bias[n];
    }
}
#endif

/* out (M, N), inputs (M, K); quantized (M, K) and row_scales (M) are scratch memory. */
void nextvec_linear(float *out, const float *inputs, const int16_t *weights, const float *scales, const float *bias,
                    int16_t *quantized, float *row_scales, float limit, long M, long N, long K) {
#if defined(LANES)
#pragma omp parallel for schedule(dynamic)
    for (long first = 0; first < M; first += BLOCK_ROWS) {
        long end = first + BLOCK_ROWS < M ? first + BLOCK_ROWS : M;
        for (long m = first; m < end; m++) row_scales[m] = quantize(quantized + m * K, inputs + m * K, K, limit);
        /* A panel of the weights stays in the fastest cache while all rows of the block pass. */
        for (long n = 0; n < N; n += PANEL) {
            const int16_t *panel = weights + n * K;
            long m = first;
            for (; m + TILE_ROWS <= end; m += TILE_ROWS)
                multiply_tile(out + m * N + n, quantized + m * K, panel, row_scales + m, scales + n, bias + n, N, K,
                              TILE_ROWS);
            for (; m < end; m++)
                multiply_tile(out + m * N + n, quantized + m * K, panel, row_scales + m, scales + n, bias + n, N, K, 1);
        }
    }
#endif
}
