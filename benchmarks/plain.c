/* Crossentropy and accuracy of rows of logits as one would write them down: the largest number of a row, then the sum
 * of exponentials in float32. No exact sums, no checks: what exactness costs is measured with it (peers.py).
 *
 *     cc -O3 -march=native -ffast-math -shared -fPIC plain.c -o plain.so -lm
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

static inline float bits(uint32_t pattern) {
    float x;
    memcpy(&x, &pattern, sizeof x);
    return x;
}

/* exp(x) of x <= 0, within 2e-7: a power of two, and a polynomial for the rest. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504f), r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * 0.00833333333f))));
    return p * bits((uint32_t)((int32_t)n + 127) << 23);
}

static double row_loss(const float *x, int64_t classes, int64_t label, int64_t *hits) {
    float peak = -3e38f, sum = 0;
    for (int64_t j = 0; j < classes; j++) peak = x[j] > peak ? x[j] : peak;
    for (int64_t j = 0; j < classes; j++) sum += exponential(x[j] - peak);
    *hits += x[label] == peak;
    return log(sum) + (peak - x[label]);
}

double of_float32(const float *x, const int64_t *labels, int64_t rows, int64_t classes, float *room, int64_t *hits) {
    double loss = 0;
    (void)room;
    for (int64_t i = 0; i < rows; i++) loss += row_loss(x + i * classes, classes, labels[i], hits);
    return loss;
}

/* Rows of half precision are widened first, into `room`: they stay in the nearest caches. */
double of_bfloat16(const uint16_t *x, const int64_t *labels, int64_t rows, int64_t classes, float *room, int64_t *hits) {
    double loss = 0;
    for (int64_t i = 0; i < rows; i++, x += classes) {
        for (int64_t j = 0; j < classes; j++) room[j] = bits((uint32_t)x[j] << 16);
        loss += row_loss(room, classes, labels[i], hits);
    }
    return loss;
}

#ifdef __F16C__
double of_float16(const uint16_t *x, const int64_t *labels, int64_t rows, int64_t classes, float *room, int64_t *hits) {
    double loss = 0;
    for (int64_t i = 0; i < rows; i++, x += classes) {
        int64_t j = 0;
        for (; j + 8 <= classes; j += 8)
            _mm256_storeu_ps(room + j, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + j))));
        for (; j < classes; j++) room[j] = _cvtsh_ss(x[j]);
        loss += row_loss(room, classes, labels[i], hits);
    }
    return loss;
}
#endif
