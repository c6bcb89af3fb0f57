/* Fused CPU operations of a training step, each one pass over memory where torch would make several.

window operations  products of a window's few heads (H) with its few vectors (S), in the format in which the vectors
                   are stored; a matrix library multiplies such small matrices slowly, and converts all vectors first
batch operations   what the objective needs of predictions and targets
weight operations  the norm of the gradients, and the update of the weights

One thread computes each number, in an order that does not depend on the number of threads: results are reproducible.
Letters: B windows of a batch, H heads, S context length, D dimensions.
*/
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

/* Number formats, as ops/native.py numbers them. */
enum { FLOAT32, FLOAT16, BFLOAT16 };

/* Convert numbers of any format to float32. */
static void widen(float *restrict to, const void *from, int format, long count) {
    if (format == FLOAT32) {
        memcpy(to, from, count * sizeof(float));
    } else if (format == BFLOAT16) {
        /* bfloat16 is the upper half of float32. */
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

/* Convert float32 to float32 or bfloat16: round to nearest, ties to even; NaN stays NaN. */
static void narrow(void *to, const float *restrict from, int format, long count) {
    if (format == FLOAT32) {
        memcpy(to, from, count * sizeof(float));
    } else {
        /* Adding half a unit of the kept digits, less one for an even number, carries into them where it rounds up. */
        uint16_t *numbers = to;
        const uint32_t *bits = (const uint32_t *)from;
        for (long i = 0; i < count; i++) {
            uint32_t rounded = (bits[i] + 0x7fff + ((bits[i] >> 16) & 1)) >> 16;
            numbers[i] = (bits[i] & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
        }
    }
}

/* The address `count` numbers behind `start`. */
static const void *offset_by(const void *start, int format, long count) {
    return (const char *)start + count * (format == FLOAT32 ? 4 : 2);
}

/* As many float32 as one instruction computes, of any alignment. A wider vector would be split in memory, which takes
   twenty times as long. SUMS of them hide the latency of the multiply-add units, and fit into the registers. */
#if defined(__AVX512F__)
enum { LANES = 16, SUMS = 4 };
#elif defined(__AVX__)
enum { LANES = 8, SUMS = 8 };
#else
enum { LANES = 4, SUMS = 8 };
#endif
enum { STRIDE = SUMS * LANES };
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* left . right */
static float dot(const float *left, const float *right, long count) {
    lanes sums[SUMS] = {{0}};
    float sum = 0;
    long i = 0;
    for (; i + STRIDE <= count; i += STRIDE)
        for (int k = 0; k < SUMS; k++)
            sums[k] += *(const lanes *)(left + i + k * LANES) * *(const lanes *)(right + i + k * LANES);
    for (; i < count; i++) sum += left[i] * right[i];
    for (int half = SUMS / 2; half; half /= 2)
        for (int k = 0; k < half; k++) sums[k] += sums[k + half];
    for (int lane = 0; lane < LANES; lane++) sum += sums[0][lane];
    return sum;
}

/* sum = the sum over s of weights[s] * vectors[s]. Inlining changes the last bit of the numbers behind the last full
   STRIDE, and must not depend on the callers. */
__attribute__((noinline)) static void weighted_sum(float *sum, const float *weights, const float *vectors, long S, long D) {
    long d = 0;
    for (; d + STRIDE <= D; d += STRIDE) {
        lanes sums[SUMS] = {{0}};
        for (long s = 0; s < S; s++)
            for (int i = 0; i < SUMS; i++)
                sums[i] += weights[s] * *(const lanes *)(vectors + s * D + d + i * LANES);
        for (int i = 0; i < SUMS; i++) *(lanes *)(sum + d + i * LANES) = sums[i];
    }
    for (; d < D; d++) {
        sum[d] = 0;
        for (long s = 0; s < S; s++) sum[d] += weights[s] * vectors[s * D + d];
    }
}

/* A tensor whose last dimension holds contiguous vectors of D numbers; strides count numbers. */
struct strided_vectors {
    void *start;
    long format, stride0, stride1;
};

static void read_vector(float *to, const struct strided_vectors *from, long i, long j, long D) {
    widen(to, offset_by(from->start, from->format, i * from->stride0 + j * from->stride1), from->format, D);
}

static void write_vector(const struct strided_vectors *to, long i, long j, const float *from, long D) {
    narrow((void *)offset_by(to->start, to->format, i * to->stride0 + j * to->stride1), from, to->format, D);
}

/* scores[b, h, s] = heads[b, h] . vectors[b, s], or zero if vector s is absent. `extra` (B, D) is added to the first
   head of each window. `extra` and `present` may be NULL. */
void nextvec_score(float *scores, const struct strided_vectors *heads, const float *extra,
                   const struct strided_vectors *vectors, const uint8_t *present, long B, long H, long S, long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        float vector[D], head[H][D];
        for (long h = 0; h < H; h++) read_vector(head[h], heads, b, h, D);
        if (extra)
            for (long d = 0; d < D; d++) head[0][d] += extra[b * D + d];
        for (long s = 0; s < S; s++) {
            int is_present = !present || present[b * S + s];
            if (is_present) read_vector(vector, vectors, b, s, D);
            for (long h = 0; h < H; h++) scores[(b * H + h) * S + s] = is_present ? dot(head[h], vector, D) : 0;
        }
    }
}

/* sums[b, h] = the sum over the present s of weights[b, h, s] * vectors[b, s]. `first` is a copy of sums[:, 0] in
   float32. `present` may be NULL. */
void nextvec_combine(const struct strided_vectors *sums, float *first, const float *weights,
                     const struct strided_vectors *vectors, const uint8_t *present, long B, long H, long S, long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        float window[S * D], sum[D];
        for (long s = 0; s < S; s++) {
            if (!present || present[b * S + s])
                read_vector(window + s * D, vectors, b, s, D);
            else
                memset(window + s * D, 0, D * sizeof(float));
        }
        for (long h = 0; h < H; h++) {
            weighted_sum(sum, weights + (b * H + h) * S, window, S, D);
            write_vector(sums, b, h, sum, D);
            if (!h) memcpy(first + b * D, sum, D * sizeof(float));
        }
    }
}

/* lengths[b] = max(|vectors[b]|, min_length); units[b] = vectors[b] / lengths[b]. `units` may be NULL. */
void nextvec_normalize(float *units, float *lengths, const struct strided_vectors *vectors, float min_length, long B,
                       long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        float scratch[D], *unit = units ? units + b * D : scratch;
        read_vector(unit, vectors, b, 0, D);
        float length = sqrtf(dot(unit, unit, D));
        /* NaN is unequal to itself and must stay NaN, so that a non-finite prediction is noticed. */
        length = length > min_length ? length : length == length ? min_length : length;
        lengths[b] = length;
        if (units)
            for (long d = 0; d < D; d++) unit[d] /= length;
    }
}

/* products[b] = left[b] . right[b]; distances[b] = |left[b] - right[b]|^2; squares[b] = |left[b]|^2. */
void nextvec_compare_rows(float *products, float *distances, float *squares, const float *left, const float *right,
                          long B, long D) {
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

/* The mean and the variance (divided by B) of each column. Threads take blocks of columns, and read whole rows of a
   block, which are contiguous. */
void nextvec_moments(float *means, float *variances, const float *vectors, long B, long D) {
    enum { COLUMNS = 64 };
#pragma omp parallel for schedule(static)
    for (long start = 0; start < D; start += COLUMNS) {
        long count = D - start < COLUMNS ? D - start : COLUMNS;
        float mean[COLUMNS] = {0}, variance[COLUMNS] = {0};
        for (long b = 0; b < B; b++)
            for (long d = 0; d < count; d++) mean[d] += vectors[b * D + start + d];
        for (long d = 0; d < count; d++) mean[d] /= B;
        for (long b = 0; b < B; b++)
            for (long d = 0; d < count; d++) {
                float deviation = vectors[b * D + start + d] - mean[d];
                variance[d] += deviation * deviation;
            }
        for (long d = 0; d < count; d++) means[start + d] = mean[d], variances[start + d] = variance[d] / B;
    }
}

/* For y[b] = shift + slope * x[b], element by element: products[b] = x[b] . y[b]; squares[b] = |y[b]|^2. */
void nextvec_affine_products(float *products, float *squares, const float *x, const float *shift, const float *slope,
                             long B, long D) {
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
        products[b] = product, squares[b] = square;
    }
}

/* exp(x) for x <= 0, to a few units in the last place; zero below the smallest normal float.

   x = turns * ln 2 + rest with a whole number of turns: the exponent of the result is `turns`, and a polynomial of `rest`
   (|rest| <= ln 2 / 2) is its mantissa. ln 2 is subtracted in two parts, so that no digits are lost. */
static inline float exp_nonpositive(float x) {
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

/* The log-sum-exp of some numbers; subtracting the largest keeps exp from overflowing. */
static float log_sum_exp(const float *numbers, long count) {
    float largest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : largest)
    for (long i = 0; i < count; i++) largest = numbers[i] > largest ? numbers[i] : largest;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < count; i++) sum += exp_nonpositive(numbers[i] - largest);
    return largest + logf(sum);
}

/* Symmetric InfoNCE from the products of B predictions (rows) with B targets (columns). Returns the loss, and overwrites
   the products with its gradient. Other pairs of a row's group are left out; `groups` may be NULL.
   row_log_sums and column_log_sums are scratch memory for B numbers each. */
double nextvec_symmetric_info_nce(float *products, float *row_log_sums, float *column_log_sums, const int32_t *groups,
                                  float tau, long B) {
    enum { COLUMNS = 64 };
    double loss = 0;
    /* Logits, and the log-sum-exp of each row. */
#pragma omp parallel for schedule(static)
    for (long row = 0; row < B; row++) {
        float *restrict logits = products + row * B, positive = logits[row] / tau;
        for (long i = 0; i < B; i++) logits[i] = groups && groups[i] == groups[row] ? -INFINITY : logits[i] / tau;
        logits[row] = positive;
        row_log_sums[row] = log_sum_exp(logits, B);
    }
    /* The log-sum-exp of each column, by blocks of columns so that memory is read in order. */
#pragma omp parallel for schedule(static)
    for (long start = 0; start < B; start += COLUMNS) {
        long count = B - start < COLUMNS ? B - start : COLUMNS;
        float largest[COLUMNS], sum[COLUMNS] = {0};
        for (long i = 0; i < count; i++) largest[i] = -INFINITY;
        for (long row = 0; row < B; row++) {
            const float *logits = products + row * B + start;
            for (long i = 0; i < count; i++) largest[i] = logits[i] > largest[i] ? logits[i] : largest[i];
        }
        for (long row = 0; row < B; row++) {
            const float *logits = products + row * B + start;
#pragma omp simd
            for (long i = 0; i < count; i++) sum[i] += exp_nonpositive(logits[i] - largest[i]);
        }
        for (long i = 0; i < count; i++) column_log_sums[start + i] = largest[i] + logf(sum[i]);
    }
    for (long row = 0; row < B; row++)
        loss += (double)row_log_sums[row] + column_log_sums[row] - 2.0 * products[row * B + row];
    /* The gradient: softmax by rows plus softmax by columns, less 2 on the diagonal. */
#pragma omp parallel for schedule(static)
    for (long row = 0; row < B; row++) {
        float *restrict logits = products + row * B, row_log_sum = row_log_sums[row], scale = 1 / (tau * B);
#pragma omp simd
        for (long i = 0; i < B; i++)
            logits[i] =
                (exp_nonpositive(logits[i] - row_log_sum) + exp_nonpositive(logits[i] - column_log_sums[i])) * scale;
        logits[row] -= 2 * scale;
    }
    return loss / B;
}

/* block[b] = (block_factor * block[b] + shift + (slope + unit_factors[b]) * units[b] - target_factor * targets[b])
              / lengths[b] */
void nextvec_mix(float *block, const float *block_factor, const float *shift, const float *slope, const float *units,
                 const float *targets, const float *unit_factors, const float *target_factor, const float *lengths,
                 long B, long D) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < B; b++) {
        float *to = block + b * D;
        const float *unit = units + b * D, *target = targets + b * D;
        float of_unit = unit_factors[b], of_target = *target_factor, of_block = *block_factor;
        float inverse_length = 1 / lengths[b];
#pragma omp simd
        for (long d = 0; d < D; d++)
            to[d] = (of_block * to[d] + shift[d] + (slope[d] + of_unit) * unit[d] - of_target * target[d]) *
                    inverse_length;
    }
}

/* The tensor that a chunk belongs to, and the chunk's place in it. */
static void find_chunk(long chunk, const long *counts, long chunk_size, long *tensor, long *start, long *size) {
    for (*tensor = 0; chunk >= (counts[*tensor] + chunk_size - 1) / chunk_size; ++*tensor)
        chunk -= (counts[*tensor] + chunk_size - 1) / chunk_size;
    *start = chunk * chunk_size;
    *size = counts[*tensor] - *start < chunk_size ? counts[*tensor] - *start : chunk_size;
}

/* The 2-norm of all numbers of several tensors. They are read in chunks, so that all threads have work whatever the
   sizes of the tensors are. `chunk_sums` is scratch memory for one number per chunk. */
void nextvec_norm(float *norm, double *chunk_sums, const float *const *tensors, const long *counts, long count,
                  long chunk_size) {
    long chunks = 0;
    double sum = 0;
    for (long tensor = 0; tensor < count; tensor++) chunks += (counts[tensor] + chunk_size - 1) / chunk_size;
#pragma omp parallel for schedule(static)
    for (long chunk = 0; chunk < chunks; chunk++) {
        long tensor, start, size;
        find_chunk(chunk, counts, chunk_size, &tensor, &start, &size);
        chunk_sums[chunk] = dot(tensors[tensor] + start, tensors[tensor] + start, size);
    }
    for (long chunk = 0; chunk < chunks; chunk++) sum += chunk_sums[chunk];
    *norm = sqrt(sum);
}

/* What `nextvec_update_weights` reads and writes of one tensor. */
enum { WEIGHTS, GRADIENTS, MEANS, SQUARES, AVERAGES, STEPS, ADDRESSES };

/* One step of AdamW (Loshchilov & Hutter 2019) for several tensors, with clipping and a moving average of the weights.
   `addresses` has ADDRESSES entries per tensor. The averages may be NULL; STEPS is the address of one number, the steps
   so far. gradient_factors clip the gradients, and weight_factors are 1 - rate * weight decay. */
void nextvec_update_weights(float *const *addresses, const long *counts, const float *gradient_factors,
                            const float *weight_factors, double rate, double beta1, double beta2, float epsilon,
                            float average_fraction, long count, long chunk_size) {
    long chunks = 0;
    for (long tensor = 0; tensor < count; tensor++) {
        chunks += (counts[tensor] + chunk_size - 1) / chunk_size;
        *addresses[tensor * ADDRESSES + STEPS] += 1;
    }
#pragma omp parallel for schedule(static)
    for (long chunk = 0; chunk < chunks; chunk++) {
        long tensor, start, size;
        find_chunk(chunk, counts, chunk_size, &tensor, &start, &size);
        float *const *of = addresses + tensor * ADDRESSES;
        float *restrict weights = of[WEIGHTS] + start, *restrict means = of[MEANS] + start;
        float *restrict squares = of[SQUARES] + start, *restrict averages = of[AVERAGES] ? of[AVERAGES] + start : NULL;
        const float *restrict gradients = of[GRADIENTS] + start;
        float gradient_factor = gradient_factors[tensor], weight_factor = weight_factors[tensor];
        /* Both means start at zero; dividing by 1 - beta^steps corrects that. */
        double steps = *of[STEPS];
        float step_size = rate / (1 - pow(beta1, steps)), square_factor = 1 / sqrt(1 - pow(beta2, steps));
        float new_mean = 1 - beta1, old_square = beta2, new_square = 1 - beta2;
#pragma omp simd
        for (long i = 0; i < size; i++) {
            float gradient = gradients[i] * gradient_factor;
            means[i] += new_mean * (gradient - means[i]);
            squares[i] = old_square * squares[i] + new_square * gradient * gradient;
            weights[i] = weights[i] * weight_factor - step_size * means[i] / (sqrtf(squares[i]) * square_factor + epsilon);
        }
        if (averages)
            for (long i = 0; i < size; i++) averages[i] += average_fraction * (weights[i] - averages[i]);
    }
}
