/* Handlers for XLA's foreign functions, by which JAX calls the library: a step, and a row of coefficients.
 *
 * Nothing of XLA or JAX is needed to compile them. What they read of a call is declared here: the part of XLA's C
 * interface that has been the same since its version 0.1, the one that they report. Every structure says how large it is,
 * and a smaller one than is read here is refused. */
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fastopt.h"
#include "float_mode.h"
#include "step.h"

enum { EXTENSION_METADATA = 1, STAGE_EXECUTE = 3, ATTR_SCALAR = 3, ATTR_STRING = 4, INVALID_ARGUMENT = 3 };
enum { MESSAGE = 512 };
enum { S32 = 4, S64 = 5, U32 = 8, F16 = 10, F32 = 11, F64 = 12, BF16 = 16 };

struct extension {
    size_t size;
    int32_t type;
    struct extension *next;
};

struct version {
    size_t size;
    struct extension *extension;
    int32_t major, minor;
};

struct metadata {
    size_t size;
    struct version version;
    uint32_t traits;
};

struct metadata_extension {
    struct extension base;
    struct metadata *metadata;
};

struct error_args {
    size_t size;
    struct extension *extension;
    const char *message;
    int32_t code;
};

struct destroy_args {
    size_t size;
    struct extension *extension;
    void *error;
};

struct schedule_args {
    size_t size;
    struct extension *extension;
    void *context;
    void (*task)(void *data);
    void *data;
};

struct api {
    size_t size;
    struct extension *extension;
    struct version version;
    const void *internal;
    void *(*create_error)(struct error_args *);
    const void *error_message;
    void (*destroy_error)(struct destroy_args *);
    const void *others[8];
    void *(*schedule)(struct schedule_args *); /* what comes after it has been moved in the course of time */
};

struct buffer {
    size_t size;
    struct extension *extension;
    int32_t dtype;
    void *data;
    int64_t rank;
    int64_t *dims;
};

struct buffers { /* operands, or results */
    size_t size;
    struct extension *extension;
    int64_t count;
    int32_t *types;
    void **buffers;
};

struct text {
    const char *characters;
    size_t length;
};

struct scalar {
    int32_t dtype;
    void *value;
};

struct attributes {
    size_t size;
    struct extension *extension;
    int64_t count;
    int32_t *types;
    struct text **names;
    void **values;
};

struct frame {
    size_t size;
    struct extension *extension;
    const struct api *api;
    void *context;
    int32_t stage;
    struct buffers operands, results;
    struct attributes attributes;
};

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(struct buffer) == 48 && sizeof(struct buffers) == 40, "as XLA has them");
_Static_assert(offsetof(struct frame, results) == 80 && offsetof(struct frame, attributes) == 120, "as XLA has them");
_Static_assert(offsetof(struct api, create_error) == 48 && offsetof(struct api, schedule) == 136, "as XLA has them");
#endif

#define EXPORT __attribute__((visibility("default")))

static void *error(const struct frame *frame, const char *message)
{
    struct error_args args = {sizeof args, NULL, message, INVALID_ARGUMENT};
    return frame->api->create_error(&args);
}

/* Whether XLA asks, when a handler is registered, which version it was written for; then that is filled in. */
static int is_question(const struct frame *frame)
{
    const struct extension *extension = frame->extension;
    if (!extension || extension->type != EXTENSION_METADATA)
        return 0;
    struct metadata *metadata = ((const struct metadata_extension *)extension)->metadata;
    metadata->version = (struct version){sizeof metadata->version, NULL, 0, 1};
    metadata->traits = 0;
    return 1;
}

/* Whether the frame and what is read of it are as large as here. */
static int is_known(const struct frame *frame)
{
    int known = frame->size >= sizeof *frame && frame->api->size >= sizeof *frame->api &&
                frame->operands.size >= sizeof(struct buffers) &&
                frame->results.size >= sizeof(struct buffers) && frame->attributes.size >= sizeof(struct attributes);
    const struct buffers *both[] = {&frame->operands, &frame->results};
    for (int side = 0; side < 2 && known; side++)
        for (int64_t i = 0; i < both[side]->count; i++)
            known &= ((struct buffer *)both[side]->buffers[i])->size >= sizeof(struct buffer);
    return known;
}

static const void *attribute(const struct frame *frame, const char *name, int32_t type)
{
    const struct attributes *all = &frame->attributes;
    for (int64_t i = 0; i < all->count; i++)
        if (all->types[i] == type && all->names[i]->length == strlen(name) &&
            memcmp(all->names[i]->characters, name, all->names[i]->length) == 0)
            return all->values[i];
    return NULL;
}

/* A whole number among the attributes, or -1. */
static int64_t number(const struct frame *frame, const char *name)
{
    const struct scalar *scalar = attribute(frame, name, ATTR_SCALAR);
    return scalar && scalar->dtype == S64 ? *(const int64_t *)scalar->value : -1;
}

/* A name among the attributes, as a string of C's. Returns zero if there is none, or if it is too long. */
static int copy_name(const struct text *text, char *name, size_t size)
{
    if (!text || text->length >= size)
        return 0;
    memcpy(name, text->characters, text->length);
    name[text->length] = 0;
    return 1;
}

static const struct buffer *operand(const struct frame *frame, int64_t index)
{
    return frame->operands.buffers[index];
}

static const struct buffer *result(const struct frame *frame, int64_t index) { return frame->results.buffers[index]; }

static int64_t length(const struct buffer *buffer)
{
    int64_t product = 1;
    for (int64_t i = 0; i < buffer->rank; i++)
        product *= buffer->dims[i];
    return product;
}

/* The storage of a buffer's numbers, or -1. */
static int32_t storage(const struct buffer *buffer)
{
    switch (buffer->dtype) {
    case F32: return FASTOPT_FLOAT32;
    case F64: return FASTOPT_FLOAT64;
    case BF16: return FASTOPT_BFLOAT16;
    case F16: return FASTOPT_FLOAT16;
    default: return -1;
    }
}

/* The dtype that kernels compute in for parameters that are stored so. */
static int32_t computed_in(const struct buffer *buffer)
{
    return buffer->dtype == F64 ? FASTOPT_FLOAT64 : FASTOPT_FLOAT32;
}

static int64_t item_size(const struct buffer *buffer)
{
    return buffer->dtype == F64 ? 8 : buffer->dtype == F32 ? 4 : 2;
}

static fastopt_stream stream(const struct buffer *buffer)
{
    return (fastopt_stream){.parts = {buffer->data}, .storage = storage(buffer)};
}

/* What is written is the result. XLA gives it the operand's memory where that may be overwritten, and has copied the
 * operand where not; a result with memory of its own is copied here, if the kernel is to read what was there. */
static fastopt_stream written(const struct buffer *from, const struct buffer *to, int is_read)
{
    if (is_read && to->data != from->data)
        memcpy(to->data, from->data, (size_t)(length(from) * item_size(from)));
    return stream(to);
}

/* The span of a parameter, but for its coefficients: its first operand is number `in`, its first result `out`. Returns what
 * is wrong, or NULL. */
static const char *fill_span(const struct frame *frame, int64_t in, int64_t out, int32_t kernel, int reads,
                             fastopt_span *span)
{
    const int32_t states = fastopt_kernel_at(kernel)->state_count;
    const struct buffer *p = operand(frame, in), *g = operand(frame, in + 1);
    *span = (fastopt_span){.length = length(p), .kernel = kernel, .dtype = computed_in(result(frame, out))};
    for (int32_t each = 0; each < 2 + states; each++)
        if (length(operand(frame, in + each)) != span->length)
            return "fastopt: parameters, gradients and states must have the same size";
    for (int32_t each = 0; each < 1 + states; each++)
        if (length(result(frame, out + each)) != span->length)
            return "fastopt: results must have the size of the parameters";
    span->streams[0] = written(p, result(frame, out), reads);
    span->streams[1] = stream(g);
    for (int32_t each = 0; each < states; each++)
        span->streams[2 + each] = written(operand(frame, in + 2 + each), result(frame, out + 1 + each), 1);
    return NULL;
}

/* A call, and its spans, which are to be freed. */
struct update {
    fastopt_call call;
    fastopt_span *spans;
    int32_t kernel;
};

/* What begins every step: a call with a span for each parameter, but for their coefficients. The operands are `before` and
 * `after` others, and between them p, g and the states of each parameter; the results are p and the states of each, then
 * `more` others. Returns what is wrong, or NULL. */
static const char *begin(const struct frame *frame, int64_t before, int64_t after, int64_t more, struct update *update)
{
    const struct text *text = attribute(frame, "kernel", ATTR_STRING);
    char name[64];
    if (!copy_name(text, name, sizeof name))
        return "fastopt: a step needs the name of a kernel";
    const int32_t kernel = fastopt_find(name);
    if (kernel < 0)
        return fastopt_error(FASTOPT_NO_KERNEL);
    const int32_t states = fastopt_kernel_at(kernel)->state_count;
    const int64_t results = frame->results.count - more, count = results / (1 + states), isa = number(frame, "isa");
    if (frame->operands.count != before + count * (2 + states) + after || results != count * (1 + states))
        return "fastopt: a step's operands are coefficients, then p, g and the states of each parameter";
    fastopt_span *spans = calloc((size_t)(count ? count : 1), sizeof *spans);
    if (!spans)
        return fastopt_error(FASTOPT_NO_MEMORY);
    const int reads = number(frame, "reads") != 0;
    const char *wrong = NULL;
    for (int64_t index = 0; index < count && !wrong; index++)
        wrong = fill_span(frame, before + index * (2 + states), index * (1 + states), kernel, reads, &spans[index]);
    if (wrong)
        free(spans);
    const int32_t threads = (int32_t)number(frame, "threads");
    *update = (struct update){{spans, count, threads, isa < 0 ? fastopt_best_isa() : (int32_t)isa, 0}, spans, kernel};
    return wrong;
}

/* Gives the spans from `first` to `last` their rows of coefficients, which are `stride` bytes apart. */
static void set_rows(const struct update *update, int64_t first, int64_t last, const void *rows, size_t stride)
{
    for (int64_t index = first; index < last; index++)
        update->spans[index].coefficients = (const char *)rows + (size_t)(index - first) * stride;
}

/* A rate or the like, a scalar. */
static double value(const struct buffer *buffer)
{
    return buffer->dtype == F64 ? *(const double *)buffer->data : (double)*(const float *)buffer->data;
}

/* Shares of a step that threads take one after the other. Tasks may begin when all is done: the last one frees it. */
struct job {
    parallel_task *task;
    void *context;
    int workers, next, done, users;
    pthread_mutex_t lock;
    pthread_cond_t all_done;
};

static void release(struct job *job)
{
    if (__atomic_sub_fetch(&job->users, 1, __ATOMIC_ACQ_REL) == 0) {
        pthread_cond_destroy(&job->all_done);
        pthread_mutex_destroy(&job->lock);
        free(job);
    }
}

/* Takes shares as long as there are some, in the default floating-point mode: on XLA's threads subnormals are zero. */
static void take_shares(struct job *job)
{
    float_mode mode;
    get_float_mode(&mode);
    set_default_float_mode();
    int worker;
    while ((worker = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->workers) {
        job->task(job->context, worker, job->workers);
        pthread_mutex_lock(&job->lock);
        if (__atomic_add_fetch(&job->done, 1, __ATOMIC_RELEASE) == job->workers)
            pthread_cond_signal(&job->all_done);
        pthread_mutex_unlock(&job->lock);
    }
    set_float_mode(&mode);
}

static void help(void *data)
{
    take_shares(data);
    release(data);
}

/* How often to ask whether others are done before falling asleep, which costs as much as a tenth of a share. */
enum { TURNS = 200 };

/* Runs a task on XLA's threads, which wait for nothing else that this library does; another pool on the same processors
 * would take them from each other. Whoever calls takes shares, too, and waits only for those that others have begun: XLA
 * may run tasks late, or not at all before this one returns. So it is asked for one thread more than is needed: woken on
 * the processor that this one is busy on, as happens in one of four steps, a thread comes when all is done. */
static void run_on_xla(void *pool, parallel_task *task, void *context, int threads)
{
    const struct frame *frame = pool;
    struct job *job = threads > 1 ? malloc(sizeof *job) : NULL;
    if (!job) {
        float_mode mode;
        get_float_mode(&mode);
        set_default_float_mode();
        task(context, 0, 1);
        set_float_mode(&mode);
        return;
    }
    *job = (struct job){.task = task, .context = context, .workers = threads, .users = 1};
    pthread_mutex_init(&job->lock, NULL);
    pthread_cond_init(&job->all_done, NULL);
    for (int other = 0; other < threads; other++) {
        struct schedule_args args = {sizeof args, NULL, frame->context, help, job};
        __atomic_add_fetch(&job->users, 1, __ATOMIC_RELAXED);
        void *refused = frame->api->schedule(&args);
        if (refused) {
            struct destroy_args destroy = {sizeof destroy, NULL, refused};
            frame->api->destroy_error(&destroy);
            release(job);
            break;
        }
    }
    take_shares(job);
    for (int turn = 0; turn < TURNS && __atomic_load_n(&job->done, __ATOMIC_ACQUIRE) < job->workers; turn++)
        sched_yield();
    pthread_mutex_lock(&job->lock);
    while (job->done < job->workers)
        pthread_cond_wait(&job->all_done, &job->lock);
    pthread_mutex_unlock(&job->lock);
    release(job);
}

/* Whether a handler has nothing to do: XLA asks something else of it, or, with an error, calls in an unknown way. */
static int is_answered(struct frame *frame, void **answer)
{
    *answer = NULL;
    if (is_question(frame) || frame->stage != STAGE_EXECUTE)
        return 1;
    if (is_known(frame))
        return 0;
    *answer = error(frame, "fastopt: this version of XLA calls in a way that is not known");
    return 1;
}

/* A step: operands k, then p, g and the states of each parameter; results p and the states of each. Attributes: kernel,
 * by name; threads; isa, or -1 for the best one; reads, whether the kernel is to read p or only to write it; required, if
 * there is one operand more that must be zero: a sentence that says so. */
EXPORT void *fastopt_xla_step(struct frame *frame)
{
    void *answer;
    if (is_answered(frame, &answer))
        return answer;
    const struct text *required = attribute(frame, "required", ATTR_STRING);
    struct update update;
    char message[MESSAGE];
    const char *wrong = begin(frame, 1, required != NULL, 0, &update);
    if (wrong)
        return error(frame, wrong);
    if (required && value(operand(frame, frame->operands.count - 1)) != 0) {
        snprintf(message, sizeof message, "fastopt: %.*s", (int)required->length, required->characters);
        wrong = message;
    }
    const struct buffer *k = operand(frame, 0);
    for (int64_t index = 0; index < update.call.count && !wrong; index++) {
        const fastopt_span *span = &update.spans[index];
        if (span->dtype != storage(k) || length(k) != fastopt_kernel_at(span->kernel)->coefficient_count)
            wrong = "fastopt: the row of coefficients is not the kernel's";
    }
    set_rows(&update, 0, update.call.count, k->data, 0);
    if (!wrong) {
        const int32_t code = step_on(&update.call, NULL, run_on_xla, frame);
        if (code != FASTOPT_OK)
            wrong = fastopt_error(code);
    }
    free(update.spans);
    return wrong ? error(frame, wrong) : NULL;
}

/* What a program gives with each step: the learning rate, where it is one of the program's numbers, and the running
 * numbers of the rule before the step, where they follow from more than its number. */
struct given {
    const double *lr, *scalars;
    int64_t scalar_count;
    double value;
};

/* Fills the rows of a rule for `count` steps from `step`, with what the program gives, if it gives that. Returns zero, or
 * has written what is wrong to `message`. */
typedef int32_t fill_rows(const char *rule, int64_t length, int64_t step, int64_t count, const double *lr,
                          const double *scalars, int64_t scalar_count, int32_t dtype, int64_t coefficients, void *rows,
                          char *message, int64_t message_size);

/* Fills the row of a rule's sum, or where there are its numbers, for parameters of these sizes, a row for each of them;
 * `after` are then the running numbers after the step, if the program gives those before it. Returns zero, or has written
 * what is wrong to `message`. */
typedef int32_t adapt_rows(const char *rule, int64_t length, int64_t step, const double *lr, const double *scalars,
                           int64_t scalar_count, int32_t dtype, int64_t count, const int64_t *sizes,
                           const double *numbers, int64_t width, const double *after, int64_t coefficients, void *rows,
                           char *message, int64_t message_size);

/* Fills in the running numbers of a rule after a step, given the numbers of its sum over each parameter, if it has one.
 * Returns zero, or has written what is wrong to `message`. */
typedef int32_t advance_scalars(const char *rule, int64_t length, int64_t step, const double *lr, const double *scalars,
                                int64_t scalar_count, int64_t count, const double *numbers, int64_t width,
                                double *after, char *message, int64_t message_size);

/* The next rows of a rule, made in advance: to ask its host for every single one would have each step wait for Python. */
struct window {
    char *rule;
    int64_t length, coefficients;
    int32_t dtype;
    int64_t first, count; /* steps */
    void *rows;
    struct window *next;
};

enum { MOST_ROWS = 256 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct window *windows;
static fill_rows *fill;
static adapt_rows *adapt;
static advance_scalars *advance;

/* Sets what fills rows and advances numbers: once, before the first step. */
EXPORT void fastopt_xla_set_rows(fill_rows *filling, adapt_rows *adapting, advance_scalars *advancing)
{
    fill = filling;
    adapt = adapting;
    advance = advancing;
}

/* Reads what a program gives from the operands from `first` to `last`: lr, a float or a double, and the scalars, doubles in
 * pairs of 32 bits. Returns zero if they are something else. */
static int read_given(const struct frame *frame, int64_t first, int64_t last, struct given *given)
{
    *given = (struct given){0};
    for (int64_t index = first; index < last; index++) {
        const struct buffer *each = operand(frame, index);
        if (each->dtype == U32 && !given->scalars) {
            given->scalars = each->data;
            given->scalar_count = length(each) / 2;
        } else if ((each->dtype == F32 || each->dtype == F64) && !given->lr) {
            given->value = value(each);
            given->lr = &given->value;
        } else {
            return 0;
        }
    }
    return 1;
}

static struct window *find_window(const struct text *rule, int32_t dtype, int64_t coefficients)
{
    for (struct window *each = windows; each; each = each->next)
        if (each->dtype == dtype && each->coefficients == coefficients && each->length == (int64_t)rule->length &&
            memcmp(each->rule, rule->characters, rule->length) == 0)
            return each;
    struct window *made = calloc(1, sizeof *made);
    char *name = malloc(rule->length + 1);
    void *rows = malloc((size_t)(MOST_ROWS * coefficients) * sizeof(double));
    if (!made || !name || !rows) {
        free(made), free(name), free(rows);
        return NULL;
    }
    memcpy(name, rule->characters, rule->length);
    *made = (struct window){name, (int64_t)rule->length, coefficients, dtype, 0, 0, rows, windows};
    return windows = made;
}

/* Copies the row of a step. Where steps follow each other, windows become longer; after a jump one begins with one row. */
static int32_t windowed_row(const struct text *rule, int64_t step, int32_t dtype, int64_t coefficients, void *k,
                            char *message)
{
    struct window *window = find_window(rule, dtype, coefficients);
    if (!window) {
        snprintf(message, MESSAGE, "%s", fastopt_error(FASTOPT_NO_MEMORY));
        return 1;
    }
    if (step < window->first || step >= window->first + window->count) {
        const int64_t next = window->count && step == window->first + window->count ? 2 * window->count : 1;
        const int64_t count = next < MOST_ROWS ? next : MOST_ROWS;
        window->count = 0;
        if (fill(rule->characters, window->length, step, count, NULL, NULL, 0, dtype, coefficients,
                 window->rows, message, MESSAGE))
            return 1;
        window->first = step;
        window->count = count;
    }
    const size_t size = (size_t)coefficients * (dtype == FASTOPT_FLOAT32 ? sizeof(float) : sizeof(double));
    memcpy(k, (char *)window->rows + (size_t)(step - window->first) * size, size);
    return 0;
}

/* A row of coefficients: operands step, an int32, and what the program gives; result k. Attributes: rule, by which its host
 * knows it; window, whether its rows follow from the step alone. */
EXPORT void *fastopt_xla_row(struct frame *frame)
{
    void *answer;
    if (is_answered(frame, &answer))
        return answer;
    const struct text *rule = attribute(frame, "rule", ATTR_STRING);
    const int64_t operands = frame->operands.count;
    struct given given;
    if (!rule || !fill || operands < 1 || frame->results.count != 1 || operand(frame, 0)->dtype != S32 ||
        !read_given(frame, 1, operands, &given))
        return error(frame, "fastopt: a row needs a rule and its step");
    const struct buffer *k = result(frame, 0);
    const int32_t dtype = storage(k);
    const int64_t step = *(const int32_t *)operand(frame, 0)->data, coefficients = length(k);
    char message[MESSAGE] = "";
    int32_t code;
    float_mode mode; /* of XLA's threads, not of Python's */
    get_float_mode(&mode);
    set_default_float_mode();
    if (given.lr || number(frame, "window") == 0) {
        code = fill(rule->characters, (int64_t)rule->length, step, 1, given.lr, given.scalars, given.scalar_count, dtype,
                    coefficients, k->data, message, MESSAGE);
    } else {
        pthread_mutex_lock(&lock);
        code = windowed_row(rule, step, dtype, coefficients, k->data, message);
        pthread_mutex_unlock(&lock);
    }
    set_float_mode(&mode);
    return code ? error(frame, message) : NULL;
}

/* The running numbers of a rule after a step: operands step, lr and these numbers before it; result like the last one.
 * Attribute: rule. */
EXPORT void *fastopt_xla_advance(struct frame *frame)
{
    void *answer;
    if (is_answered(frame, &answer))
        return answer;
    const struct text *rule = attribute(frame, "rule", ATTR_STRING);
    struct given given;
    if (!rule || !advance || frame->operands.count != 3 || frame->results.count != 1 ||
        operand(frame, 0)->dtype != S32 || !read_given(frame, 1, 3, &given) ||
        length(result(frame, 0)) != length(operand(frame, 2)))
        return error(frame, "fastopt: a rule's numbers need the rule, its step and the numbers before that");
    char message[MESSAGE] = "";
    float_mode mode; /* of XLA's threads, not of Python's */
    get_float_mode(&mode);
    set_default_float_mode();
    const int32_t code =
        advance(rule->characters, (int64_t)rule->length, *(const int32_t *)operand(frame, 0)->data, given.lr,
                given.scalars, given.scalar_count, 0, NULL, 0, result(frame, 0)->data, message, MESSAGE);
    set_float_mode(&mode);
    return code ? error(frame, message) : NULL;
}

/* What a step with sums needs besides: sums, sizes, and for each parameter room for a row of the sum or of the kernel. */
struct sums {
    int32_t index;
    double *partials, *numbers;
    int64_t *sizes;
    char *rows;
    size_t row_size;
};

static void free_sums(struct sums *sums)
{
    free(sums->partials), free(sums->numbers), free(sums->sizes), free(sums->rows);
}

/* Returns zero if there is no memory. */
static int allocate_sums(const fastopt_call *call, int64_t coefficients, struct sums *sums)
{
    const fastopt_sum *about = fastopt_sum_at(sums->index);
    const size_t count = (size_t)call->count + 1, width = (size_t)about->number_count;
    const int64_t most = coefficients > about->coefficient_count ? coefficients : about->coefficient_count;
    sums->row_size = (size_t)most * sizeof(double);
    sums->partials = calloc((size_t)fastopt_blocks(call) * width + 1, sizeof(double));
    sums->numbers = calloc(count * width, sizeof(double));
    sums->sizes = calloc(count, sizeof(int64_t));
    sums->rows = calloc(count, sums->row_size);
    if (!sums->partials || !sums->numbers || !sums->sizes || !sums->rows)
        return 0;
    for (int64_t index = 0; index < call->count; index++)
        sums->sizes[index] = call->spans[index].length;
    return 1;
}

/* A step with sums: its rule, and what else its host is asked by. */
struct adapted {
    const struct text *rule;
    int64_t step;
    struct given given;
    double *after; /* where the running numbers after the step are to be, if the program gives those before it */
    struct update update;
    struct sums sums;
    char message[MESSAGE];
};

/* Gives spans the row of the sum or, once it is `taken`, rows of their own: for each run of spans that are computed in one
 * dtype. Returns zero, or has written what is wrong to the message. */
static int32_t adapt_rows_of(struct adapted *step, int64_t coefficients, int taken)
{
    const fastopt_call *call = &step->update.call;
    const struct given *given = &step->given;
    const struct sums *sums = &step->sums;
    const int64_t width = fastopt_sum_at(sums->index)->number_count;
    int32_t wrong = 0;
    for (int64_t first = 0, last; first < call->count && !wrong; first = last) {
        const int32_t dtype = call->spans[first].dtype;
        for (last = first + 1; last < call->count && call->spans[last].dtype == dtype; last++)
            ;
        char *rows = sums->rows + (size_t)first * sums->row_size;
        wrong = adapt(step->rule->characters, (int64_t)step->rule->length, step->step, given->lr, given->scalars,
                      given->scalar_count, dtype, taken ? last - first : 1, taken ? sums->sizes + first : NULL,
                      sums->numbers + first * width, width, step->after, coefficients, rows, step->message, MESSAGE);
        const size_t size = (size_t)coefficients * (dtype == FASTOPT_FLOAT32 ? sizeof(float) : sizeof(double));
        set_rows(&step->update, first, last, rows, taken ? size : 0);
    }
    return wrong;
}

/* Whether what the library was asked for was done; if not, the message says why. */
static int is_done(struct adapted *step, int32_t code)
{
    if (code != FASTOPT_OK)
        snprintf(step->message, MESSAGE, "%s", fastopt_error(code));
    return code == FASTOPT_OK;
}

/* The sums of each parameter, the running numbers after the step, the rows that follow from both, and the kernels: see
 * fastopt_xla_adapted_step(). Returns zero, or has written what is wrong to the message. */
static int32_t adapt_step(struct frame *frame, struct adapted *step, int64_t coefficients)
{
    const fastopt_call *call = &step->update.call;
    const struct given *given = &step->given;
    const fastopt_sum *about = fastopt_sum_at(step->sums.index);
    if (adapt_rows_of(step, about->coefficient_count, 0) ||
        !is_done(step, measure_on(call, step->sums.index, step->sums.partials, step->sums.numbers, run_on_xla, frame)))
        return 1;
    if (step->after &&
        advance(step->rule->characters, (int64_t)step->rule->length, step->step, given->lr, given->scalars,
                given->scalar_count, call->count, step->sums.numbers, about->number_count, step->after, step->message,
                MESSAGE))
        return 1;
    return adapt_rows_of(step, coefficients, 1) || !is_done(step, step_on(call, NULL, run_on_xla, frame));
}

/* A step of a rule with sums: operands step, an int32, and what the program gives, then p, g and the states of each
 * parameter; results as of fastopt_xla_step(), then the running numbers after the step, if the program gives those before
 * it. Attributes: rule and threads; kernel and sum, by name; isa; given, how many operands the program gives. The sums of
 * each parameter are taken, its host makes the running numbers and a row for each from them, and then kernels run. */
EXPORT void *fastopt_xla_adapted_step(struct frame *frame)
{
    void *answer;
    if (is_answered(frame, &answer))
        return answer;
    struct adapted step = {.rule = attribute(frame, "rule", ATTR_STRING)};
    char name[64];
    if (!step.rule || !adapt || !advance || !copy_name(attribute(frame, "sum", ATTR_STRING), name, sizeof name) ||
        frame->operands.count < 1 || operand(frame, 0)->dtype != S32)
        return error(frame, "fastopt: a step with sums needs a rule, a sum and its number");
    const int64_t givens = number(frame, "given");
    if (givens < 0 || givens >= frame->operands.count || !read_given(frame, 1, 1 + givens, &step.given))
        return error(frame, "fastopt: a step with sums has operands that are not known");
    step.step = *(const int32_t *)operand(frame, 0)->data;
    if (step.given.scalars) {
        const int64_t last = frame->results.count - 1;
        if (last < 0 || result(frame, last)->dtype != U32 || length(result(frame, last)) != 2 * step.given.scalar_count)
            return error(frame, "fastopt: the last result of a step is the running numbers after it");
        step.after = result(frame, last)->data;
    }
    step.sums.index = fastopt_find_sum(name);
    if (step.sums.index < 0)
        return error(frame, fastopt_error(FASTOPT_NO_SUM));
    const char *wrong = begin(frame, 1 + givens, 0, step.after != NULL, &step.update);
    if (wrong)
        return error(frame, wrong);
    const int64_t coefficients = fastopt_kernel_at(step.update.kernel)->coefficient_count;
    float_mode mode; /* of XLA's threads, not of Python's */
    get_float_mode(&mode);
    set_default_float_mode();
    if (!allocate_sums(&step.update.call, coefficients, &step.sums))
        wrong = fastopt_error(FASTOPT_NO_MEMORY);
    else if (adapt_step(frame, &step, coefficients))
        wrong = step.message;
    set_float_mode(&mode);
    free_sums(&step.sums);
    free(step.update.spans);
    return wrong ? error(frame, wrong) : NULL;
}
