/* The passes over memory that a step of training spends its time on, where torch would make several of each.

Small products of a window: its few heads (H) with its few vectors (S), in whatever format the vectors are stored. A
library multiplies such small matrices slowly, and only after converting millions of numbers.

Passes over a batch: what the objective needs of predictions and targets. Every number is computed by one thread, in an
order that does not depend on how many there are.
*/
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

enum { FLOAT32, FLOAT16, BFLOAT16 };

static void widen(float *restrict to, const void *from, int format, long count) {
    if (format == FLOAT32) {
        memcpy(to, from, count * sizeof(float));
    } else if (format == BFLOAT16) {
        const uint16_t *numbers = from;
        uint32_t *bits = (uint32_t *)to;
        for (long i = 0; i < count; i++) bits[i] = (uint32_t)numbers[i] << 16;
    } else {
        const _Float16 *numbers = from;
        long i = 0;
#if defined(__AVX512F__)
        for (; i + 16 <= count; i += 16)
            _mm512_storeu_ps(to + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(numbers + i))));
#elif defined(__F16C__)
        for (; i + 8 <= count; i += 8)
            _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(numbers + i))));
#endif
        for (; i < count; i++) to[i] = (float)numbers[i];
    }
}

/* Rounds to the nearest, ties to even; NaN stays NaN. */
static void narrow(void *to, const float *restrict from, int format, long count) {
    if (format == FLOAT32) {
        memcpy(to, from, count * sizeof(float));
    } else {
        uint16_t *numbers = to;
        const uint32_t *bits = (const uint32_t *)from;
        for (long i = 0; i < count; i++) {
            uint32_t rounded = (bits[i] + 0x7fff + ((bits[i] >> 16) & 1)) >> 16;
            numbers[i] = (bits[i] & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
        }
    }
}

static const void *at(const void *start, int format, long numbers) {
    return (const char *)start + numbers * (format == FLOAT32 ? 4 : 2);
}

/* Sixteen numbers that are computed at once, wherever they lie. Several such sums keep a processor busy. */
typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));
enum { LANES = 16, STRIDE = 4 * LANES };

static float dot(const float *left, const float *right, long count) {
    lanes sums[4] = {{0}};
    float sum = 0;
    long i = 0;
    for (; i + STRIDE <= count; i += STRIDE)
        for (int part = 0; part < 4; part++)
            sums[part] += *(const lanes *)(left + i + part * LANES) * *(const lanes *)(right + i + part * LANES);
    for (; i < count; i++) sum += left[i] * right[i];
    sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int lane = 0; lane < LANES; lane++) sum += sums[0][lane];
    return sum;
}

/* sum = sum over s of weights[s] vectors[s]. */
static void weigh(float *sum, const float *weights, const float *vectors, long S, long D) {
    long d = 0;
    for (; d + STRIDE <= D; d += STRIDE) {
        lanes sums[4] = {{0}};
        for (long s = 0; s < S; s++)
            for (int part = 0; part < 4; part++)
                sums[part] += weights[s] * *(const lanes *)(vectors + s * D + d + part * LANES);
        for (int part = 0; part < 4; part++) *(lanes *)(sum + d + part * LANES) = sums[part];
    }
    for (; d < D; d++) {
        sum[d] = 0;
        for (long s = 0; s < S; s++) sum[d] += weights[s] * vectors[s * D + d];
    }
}

/* A tensor of two indexed dimensions with vectors of D numbers, each in one piece. */
struct vectors {
    void *start;
    long format, first, second;
};

static void read_vector(float *to, const struct vectors *from, long first, long second, long D) {
    widen(to, at(from->start, from->format, first * from->first + second * from->second), from->format, D);
}

static void write_vector(const struct vectors *to, long first, long second, const float *from, long D) {
    narrow((void *)at(to->start, to->format, first * to->first + second * to->second), from, to->format, D);
}

/* scores[b, h, s] = heads[b, h] . vectors[b, s], zero where `present` is given and false; `more` is added to the first
   head of each window, and may be missing. */
void nextvec_score(float *scores, const struct vectors *heads, const float *more, const struct vectors *vectors,
                   const uint8_t *present, long B, long H, long S, long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        float vector[D], head[H][D];
        for (long h = 0; h < H; h++) read_vector(head[h], heads, b, h, D);
        if (more)
            for (long d = 0; d < D; d++) head[0][d] += more[b * D + d];
        for (long s = 0; s < S; s++) {
            int there = !present || present[b * S + s];
            if (there) read_vector(vector, vectors, b, s, D);
            for (long h = 0; h < H; h++) scores[(b * H + h) * S + s] = there ? dot(head[h], vector, D) : 0;
        }
    }
}

/* sums[b, h] = sum over s of weights[b, h, s] vectors[b, s], over those that are present; `first` is sums[:, 0] again,
   in float32. */
void nextvec_combine(const struct vectors *sums, float *first, const float *weights, const struct vectors *vectors,
                     const uint8_t *present, long B, long H, long S, long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        float vector[S * D], sum[D];
        for (long s = 0; s < S; s++) {
            if (!present || present[b * S + s])
                read_vector(vector + s * D, vectors, b, s, D);
            else
                memset(vector + s * D, 0, D * sizeof(float));
        }
        for (long h = 0; h < H; h++) {
            weigh(sum, weights + (b * H + h) * S, vector, S, D);
            write_vector(sums, b, h, sum, D);
            if (!h) memcpy(first + b * D, sum, D * sizeof(float));
        }
    }
}

/* units[b] = vectors[b] / max(|vectors[b]|, shortest), and these lengths; the units may be missing. */
void nextvec_normalise(float *units, float *lengths, const struct vectors *vectors, float shortest, long B, long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        float room[D], *unit = units ? units + b * D : room;
        read_vector(unit, vectors, b, 0, D);
        float length = sqrtf(dot(unit, unit, D));
        length = length > shortest ? length : length == length ? shortest : length;
        lengths[b] = length;
        if (units)
            for (long d = 0; d < D; d++) unit[d] /= length;
    }
}

/* products[b] = left[b] . right[b]; distances[b] = |left[b] - right[b]|^2; squares[b] = |left[b]|^2. */
void nextvec_compare(float *products, float *distances, float *squares, const float *left, const float *right, long B,
                     long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        const float *restrict l = left + b * D, *restrict r = right + b * D;
        float product = 0, distance = 0, square = 0;
#pragma omp simd reduction(+ : product, distance, square)
        for (long d = 0; d < D; d++) {
            product += l[d] * r[d];
            distance += (l[d] - r[d]) * (l[d] - r[d]);
            square += l[d] * l[d];
        }
        products[b] = product, distances[b] = distance, squares[b] = square;
    }
}

/* The mean of each column and its variance, divided by B. */
void nextvec_moments(float *means, float *variances, const float *numbers, long B, long D) {
    enum { COLUMNS = 64 };
#pragma omp parallel for schedule(static)
    for (long start = 0; start < D; start += COLUMNS) {
        long count = D - start < COLUMNS ? D - start : COLUMNS;
        float mean[COLUMNS] = {0}, variance[COLUMNS] = {0};
        for (long b = 0; b < B; b++)
            for (long d = 0; d < count; d++) mean[d] += numbers[b * D + start + d];
        for (long d = 0; d < count; d++) mean[d] /= B;
        for (long b = 0; b < B; b++)
            for (long d = 0; d < count; d++) {
                float apart = numbers[b * D + start + d] - mean[d];
                variance[d] += apart * apart;
            }
        for (long d = 0; d < count; d++) means[start + d] = mean[d], variances[start + d] = variance[d] / B;
    }
}

/* For y[b] = shift + slope * x[b], number by number: along[b] = x[b] . y[b], squares[b] = |y[b]|^2. */
void nextvec_measure_affine(float *along, float *squares, const float *x, const float *shift, const float *slope, long B,
                            long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        const float *restrict row = x + b * D;
        float product = 0, square = 0;
#pragma omp simd reduction(+ : product, square)
        for (long d = 0; d < D; d++) {
            float y = shift[d] + slope[d] * row[d];
            product += row[d] * y;
            square += y * y;
        }
        along[b] = product, squares[b] = square;
    }
}

/* e to the x for x <= 0, to a few units of the last place; zero below what float can hold. */
static inline float exponential(float x) {
    float bounded = x < -87.0f ? -87.0f : x;
    float turns = rintf(bounded * 1.44269504f);
    float rest = fmaf(turns, -0.693145752f, bounded);
    rest = fmaf(turns, -1.42860677e-6f, rest);
    float sum = 1.9875691500e-4f;
    sum = fmaf(sum, rest, 1.3981999507e-3f);
    sum = fmaf(sum, rest, 8.3334519073e-3f);
    sum = fmaf(sum, rest, 4.1665795894e-2f);
    sum = fmaf(sum, rest, 1.6666665459e-1f);
    sum = fmaf(sum, rest, 5.0000001201e-1f);
    sum = fmaf(sum, rest * rest, rest) + 1.0f;
    union { int32_t bits; float number; } power = {((int32_t)turns + 127) << 23};
    return x < -87.0f ? 0.0f : sum * power.number;
}

/* The log-sum-exp of `count` numbers. */
static float log_sum(const float *numbers, long count) {
    float most = -INFINITY, sum = 0;
#pragma omp simd reduction(max : most)
    for (long i = 0; i < count; i++) most = numbers[i] > most ? numbers[i] : most;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < count; i++) sum += exponential(numbers[i] - most);
    return most + logf(sum);
}

/* InfoNCE in both directions from the products of B predictions with B targets, which become its gradient there.

   Other pairs of a row's group are left out. Returns the loss; by_row and by_column are room for B numbers each. */
double nextvec_pair_both_ways(float *products, float *by_row, float *by_column, const int32_t *groups, float tau, long B) {
    enum { COLUMNS = 64 };
    double loss = 0;
#pragma omp parallel for schedule(static)
    for (long row = 0; row < B; row++) {
        float *restrict logits = products + row * B, own = logits[row] / tau;
        for (long i = 0; i < B; i++) logits[i] = groups && groups[i] == groups[row] ? -INFINITY : logits[i] / tau;
        logits[row] = own;
        by_row[row] = log_sum(logits, B);
    }
#pragma omp parallel for schedule(static)
    for (long start = 0; start < B; start += COLUMNS) {
        long count = B - start < COLUMNS ? B - start : COLUMNS;
        float most[COLUMNS], sum[COLUMNS] = {0};
        for (long i = 0; i < count; i++) most[i] = -INFINITY;
        for (long row = 0; row < B; row++) {
            const float *logits = products + row * B + start;
            for (long i = 0; i < count; i++) most[i] = logits[i] > most[i] ? logits[i] : most[i];
        }
        for (long row = 0; row < B; row++) {
            const float *logits = products + row * B + start;
#pragma omp simd
            for (long i = 0; i < count; i++) sum[i] += exponential(logits[i] - most[i]);
        }
        for (long i = 0; i < count; i++) by_column[start + i] = most[i] + logf(sum[i]);
    }
    for (long row = 0; row < B; row++) loss += (double)by_row[row] + by_column[row] - 2.0 * products[row * B + row];
#pragma omp parallel for schedule(static)
    for (long row = 0; row < B; row++) {
        float *restrict logits = products + row * B, own = by_row[row], scale = 1 / (tau * B);
#pragma omp simd
        for (long i = 0; i < B; i++)
            logits[i] = (exponential(logits[i] - own) + exponential(logits[i] - by_column[i])) * scale;
        logits[row] -= 2 * scale;
    }
    return loss / B;
}

/* block[b] = (factor block[b] + shift + slope * unit[b] + pull[b] unit[b] - push target[b]) / lengths[b]. */
void nextvec_mix(float *block, const float *factor, const float *shift, const float *slope, const float *units,
                 const float *targets, const float *pull, const float *push, const float *lengths, long B, long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        float *to = block + b * D;
        const float *unit = units + b * D, *target = targets + b * D;
        float along = pull[b], against = *push, own = *factor, divisor = 1 / lengths[b];
#pragma omp simd
        for (long d = 0; d < D; d++)
            to[d] = (own * to[d] + shift[d] + (slope[d] + along) * unit[d] - against * target[d]) * divisor;
    }
}

/* AMN's prediction for one window: what models/amn.py does for many, with every weight read once. */
struct mixture_network {
    const float *position, *key, *query, *query_bias;              /* H x ages; H K x D; H K x 2 D; H K */
    const float *wide, *wide_bias, *wide_gain, *wide_shift;        /* W x (H + 1) D; W each: bias, gain and shift of the norm */
    const float *narrow, *narrow_bias, *narrow_gain, *narrow_shift; /* N x W; N each */
    const float *last, *last_bias;                                 /* D x N; D */
    long ages, H, K, W, N;
};

static void softmax_of_present(float *weights, const float *scores, const uint8_t *present, long S) {
    float most = -INFINITY, sum = 0;
    for (long s = 0; s < S; s++)
        if (!present || present[s]) most = fmaxf(most, scores[s]);
    for (long s = 0; s < S; s++) sum += weights[s] = !present || present[s] ? expf(scores[s] - most) : 0;
    for (long s = 0; s < S; s++) weights[s] /= sum > 0 ? sum : 1;
}

/* to = layer norm of gelu(weights from + bias). */
static void layer(float *to, const float *weights, const float *bias, const float *gain, const float *shift,
                  const float *from, long rows, long columns) {
    double mean = 0, square = 0;
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        float sum = dot(weights + row * columns, from, columns) + bias[row];
        to[row] = 0.5f * sum * (1 + erff(sum * 0.70710678f));
    }
    for (long row = 0; row < rows; row++) mean += to[row];
    mean /= rows;
    for (long row = 0; row < rows; row++) square += (to[row] - mean) * (to[row] - mean);
    float scale = 1 / sqrt(square / rows + 1e-5);
    for (long row = 0; row < rows; row++) to[row] = (to[row] - (float)mean) * scale * gain[row] + shift[row];
}

void nextvec_predict_one(float *prediction, const struct vectors *context, const uint8_t *present,
                         const struct mixture_network *net, long S, long D) {
    long H = net->H, K = net->K, W = net->W, N = net->N;
    float vectors[S * D], by_age[S], asks[2 * D], products[H * K * S], weights[H * S], means[(H + 1) * D], wide[W], narrow[N];
    for (long s = 0; s < S; s++) {
        if (!present || present[s])
            read_vector(vectors + s * D, context, 0, s, D);
        else
            memset(vectors + s * D, 0, D * sizeof(float));
        by_age[s] = net->position[S - 1 - s < net->ages ? S - 1 - s : net->ages - 1];
    }
    softmax_of_present(by_age, by_age, present, S);
    weigh(means + H * D, by_age, vectors, S, D);
    memcpy(asks, means + H * D, D * sizeof(float));
    memcpy(asks + D, vectors + (S - 1) * D, D * sizeof(float));
#pragma omp parallel for schedule(static)
    for (long row = 0; row < H * K; row++) {
        float query = dot(net->query + row * 2 * D, asks, 2 * D) + net->query_bias[row];
        for (long s = 0; s < S; s++) products[row * S + s] = query * dot(net->key + row * D, vectors + s * D, D);
    }
    for (long h = 0; h < H; h++) {
        float scores[S];
        for (long s = 0; s < S; s++) {
            long age = S - 1 - s < net->ages ? S - 1 - s : net->ages - 1;
            float sum = 0;
            for (long k = 0; k < K; k++) sum += products[(h * K + k) * S + s];
            scores[s] = sum / sqrtf(K) + net->position[h * net->ages + age];
        }
        softmax_of_present(weights + h * S, scores, present, S);
        weigh(means + h * D, weights + h * S, vectors, S, D);
    }
    layer(wide, net->wide, net->wide_bias, net->wide_gain, net->wide_shift, means, W, (H + 1) * D);
    layer(narrow, net->narrow, net->narrow_bias, net->narrow_gain, net->narrow_shift, wide, N, W);
#pragma omp parallel for schedule(static)
    for (long d = 0; d < D; d++) prediction[d] = means[d] + dot(net->last + d * N, narrow, N) + net->last_bias[d];
}

/* The square root of the sum of squares of all numbers of some tensors, walked in chunks, so that all threads have work
   whatever the tensors' sizes are; `room` for one number a chunk. */
void nextvec_norm(float *norm, double *room, const float *const *tensors, const long *counts, long count, long chunk) {
    long chunks = 0;
    double sum = 0;
    for (long tensor = 0; tensor < count; tensor++) chunks += (counts[tensor] + chunk - 1) / chunk;
#pragma omp parallel for schedule(static)
    for (long number = 0; number < chunks; number++) {
        long tensor = 0, place = number;
        for (; place >= (counts[tensor] + chunk - 1) / chunk; tensor++) place -= (counts[tensor] + chunk - 1) / chunk;
        long start = place * chunk, left = counts[tensor] - start;
        const float *numbers = tensors[tensor] + start;
        room[number] = dot(numbers, numbers, left < chunk ? left : chunk);
    }
    for (long number = 0; number < chunks; number++) sum += room[number];
    *norm = sqrt(sum);
}
