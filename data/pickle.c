/* pickle.c - a stack machine that builds plain values; see pickle.h for what it refuses to be. */
#include "data/pickle.h"

#include <string.h>

#include "data/weights_internal.h"

typedef data_pickle_value value;
typedef data_pickle_items items;

/* Heads everything that values point to, so that all of it can end together. */
typedef struct node {
    struct node *next;
    items *items; /* whose values end with it, or NULL */
} node;

struct data_pickle {
    ag_ctx *ctx;
    const char *name;
    const uint8_t *begin, *at, *end;
    const uint8_t *op; /* the instruction being run */
    node *nodes;
    int64_t n_nodes, n_tensors, n_values;
    value *stack, *memo;
    int64_t n_stack, room_stack, n_memo;
    uint8_t *is_memo; /* which memo entries are set */
    int64_t marks[DATA_PICKLE_DEPTH];
    int n_marks;
    value top;
    ag_status status;
};

/* The only names that mean something. */
enum { ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, SIZE, STORAGE_TYPE };

static const struct {
    const char *module, *name;
    int meaning;
    data_dtype dtype;
} globals[] = {
    {"collections", "OrderedDict", ORDERED_DICT, 0},
    {"torch._utils", "_rebuild_tensor_v2", REBUILD_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", REBUILD_PARAMETER, 0},
    {"torch", "Size", SIZE, 0},
    {"torch", "DoubleStorage", STORAGE_TYPE, DATA_F64},
    {"torch", "FloatStorage", STORAGE_TYPE, DATA_F32},
    {"torch", "HalfStorage", STORAGE_TYPE, DATA_F16},
    {"torch", "BFloat16Storage", STORAGE_TYPE, DATA_BF16},
    {"torch", "LongStorage", STORAGE_TYPE, DATA_I64},
    {"torch", "IntStorage", STORAGE_TYPE, DATA_I32},
    {"torch", "ShortStorage", STORAGE_TYPE, DATA_I16},
    {"torch", "CharStorage", STORAGE_TYPE, DATA_I8},
    {"torch", "ByteStorage", STORAGE_TYPE, DATA_U8},
    {"torch", "BoolStorage", STORAGE_TYPE, DATA_BOOL},
};

static const value opaque = {.kind = DATA_PICKLE_OPAQUE};

/* --- the machine's parts ---------------------------------------------------------------------- */

static void bad(data_pickle *p, const char *what)
{
    if (p->status == AG_OK)
        p->status = ag_fail(p->ctx, AG_EDATA, "%s: pickle byte %zu: %s", p->name,
                            (size_t)(p->op - p->begin), what);
}

/* n_bytes of zeros that end with the pickle. */
static void *take(data_pickle *p, size_t n_bytes)
{
    node *n;

    if (p->n_nodes == DATA_PICKLE_NODES) {
        bad(p, "too many values");
        return NULL;
    }
    n = ag_new(p->ctx, 1, sizeof *n + n_bytes, p->name);
    if (!n) {
        p->status = AG_ENOMEM;
        return NULL;
    }
    n->next = p->nodes;
    p->nodes = n;
    p->n_nodes++;
    return n + 1;
}

/* The next n bytes of the program; NULL, and failed, when it is shorter. */
static const uint8_t *operand(data_pickle *p, size_t n)
{
    const uint8_t *at = p->at;

    if ((size_t)(p->end - p->at) < n) {
        bad(p, "the pickle is cut short");
        return NULL;
    }
    p->at += n;
    return at;
}

/* An unsigned number of n <= 8 bytes, little-endian; 0 when the program is shorter. */
static uint64_t operand_number(data_pickle *p, int n)
{
    const uint8_t *at = operand(p, (size_t)n);
    uint64_t number = 0;

    while (at && n-- > 0)
        number = number << 8 | at[n];
    return number;
}

static void push(data_pickle *p, value v)
{
    if (p->n_stack == DATA_PICKLE_STACK) {
        bad(p, "the stack is too deep");
        return;
    }
    if (p->n_stack == p->room_stack) {
        const int64_t room = 2 * p->room_stack + 64;
        value *stack = ag_grow(p->ctx, p->stack, (size_t)room, sizeof *stack, p->name);

        if (!stack) {
            p->status = AG_ENOMEM;
            return;
        }
        p->stack = stack;
        p->room_stack = room;
    }
    p->stack[p->n_stack++] = v;
}

/* The stack below the newest mark is out of reach. */
static int64_t floor_of(const data_pickle *p)
{
    return p->n_marks ? p->marks[p->n_marks - 1] : 0;
}

static value pop(data_pickle *p)
{
    if (p->n_stack <= floor_of(p)) {
        bad(p, "takes more than the stack holds");
        return opaque;
    }
    return p->stack[--p->n_stack];
}

/* The top of the stack, n values down. */
static value *peek(data_pickle *p, int64_t n)
{
    if (p->n_stack - n <= floor_of(p)) {
        bad(p, "takes more than the stack holds");
        return NULL;
    }
    return &p->stack[p->n_stack - 1 - n];
}

/* Take the newest mark away; what stood above it begins at the index returned. */
static int64_t pop_mark(data_pickle *p)
{
    if (p->n_marks == 0) {
        bad(p, "there is no mark");
        return p->n_stack;
    }
    return p->marks[--p->n_marks];
}

/* --- values ----------------------------------------------------------------------------------- */

static bool has_items(const value *v)
{
    return v->kind == DATA_PICKLE_TUPLE || v->kind == DATA_PICKLE_LIST ||
           v->kind == DATA_PICKLE_DICT;
}

static int depth_of(const value *v)
{
    return has_items(v) && v->as.items ? v->as.items->depth : 0;
}

/* Append n values to a list, a tuple in the making or a dictionary. */
static void append(data_pickle *p, items *to, const value *v, int64_t n)
{
    if (p->status != AG_OK || n == 0)
        return;
    p->n_values += n;
    if (p->n_values > DATA_PICKLE_VALUES) {
        bad(p, "too many values");
        return;
    }
    if (n > to->room - to->n) {
        /* at first just enough: most tuples never grow */
        const uint32_t room = to->room ? 2 * to->room + (uint32_t)n : (uint32_t)n;
        value *more = ag_grow(p->ctx, to->values, room, sizeof *more, p->name);

        if (!more) {
            p->status = AG_ENOMEM;
            return;
        }
        to->values = more;
        to->room = room;
    }
    for (int64_t i = 0; i < n; i++) {
        const int depth = depth_of(&v[i]) + 1;

        if (depth > DATA_PICKLE_DEPTH) {
            bad(p, "nested too deep");
            return;
        }
        to->depth = depth > to->depth ? depth : to->depth;
        to->values[to->n++] = v[i];
    }
}

static value container(data_pickle *p, data_pickle_kind kind)
{
    items *list = take(p, sizeof *list);

    if (!list)
        return opaque;
    p->nodes->items = list;
    list->depth = 1;
    return (value){.kind = kind, .as.items = list};
}

/* Replace the stack from `from` on by a tuple of it. */
static void make_tuple(data_pickle *p, int64_t from)
{
    value tuple = {.kind = DATA_PICKLE_TUPLE};

    if (p->n_stack > from) {
        tuple = container(p, DATA_PICKLE_TUPLE);
        if (tuple.kind == DATA_PICKLE_TUPLE)
            append(p, tuple.as.items, p->stack + from, p->n_stack - from);
    }
    p->n_stack = from;
    push(p, tuple);
}

/* Move the stack from `from` on into the list or dictionary below it. */
static void add_items(data_pickle *p, int64_t from, bool pairs)
{
    const int64_t n = p->n_stack - from;
    value *to;

    if (p->status != AG_OK)
        return;
    p->n_stack = from;
    to = peek(p, 0);
    if (!to)
        return;
    if (pairs && n % 2 != 0)
        bad(p, "a key without a value");
    else if (to->kind == (pairs ? DATA_PICKLE_DICT : DATA_PICKLE_LIST))
        append(p, to->as.items, p->stack + from, n);
    else if (to->kind != DATA_PICKLE_OPAQUE)
        bad(p, pairs ? "sets items of what is no dictionary" : "appends to what is no list");
}

static void push_text(data_pickle *p, size_t n)
{
    const uint8_t *text = n <= DATA_PICKLE_TEXT ? operand(p, n) : NULL;

    if (n > DATA_PICKLE_TEXT)
        bad(p, "a text that is too long");
    if (text)
        push(p, (value){DATA_PICKLE_STRING, (uint32_t)n, .as.text = (const char *)text});
}

static void push_integer(data_pickle *p, int64_t integer)
{
    push(p, (value){.kind = DATA_PICKLE_INT, .as.integer = integer});
}

/* A signed number of n bytes; one that 64 bits do not hold is opaque. */
static void push_long(data_pickle *p, size_t n)
{
    const uint8_t *at = operand(p, n);
    uint64_t number;

    if (!at)
        return;
    if (n > 8) {
        push(p, opaque);
        return;
    }
    number = n > 0 && at[n - 1] & 0x80 ? UINT64_MAX : 0;
    while (n-- > 0)
        number = number << 8 | at[n];
    push_integer(p, (int64_t)number);
}

static void push_real(data_pickle *p)
{
    const uint8_t *at = operand(p, 8); /* big-endian */
    uint64_t bits = 0;
    double real;

    for (int i = 0; at && i < 8; i++)
        bits = bits << 8 | at[i];
    memcpy(&real, &bits, sizeof real);
    push(p, (value){.kind = DATA_PICKLE_REAL, .as.real = real});
}

/* One line of the program. */
static const char *line(data_pickle *p, size_t *n)
{
    const uint8_t *from = p->at;
    const size_t left = (size_t)(p->end - p->at);
    const uint8_t *end = memchr(from, '\n', left < 1024 ? left : 1024);

    if (!end) {
        bad(p, "a name without an end");
        return NULL;
    }
    *n = (size_t)(end - from);
    p->at = end + 1;
    return (const char *)from;
}

static bool is_text(const char *text, size_t n, const char *wanted)
{
    return strlen(wanted) == n && memcmp(text, wanted, n) == 0;
}

static void push_global(data_pickle *p)
{
    size_t n_module = 0, n_name = 0;
    const char *module = line(p, &n_module), *name = module ? line(p, &n_name) : NULL;

    if (!name)
        return;
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++) {
        if (is_text(module, n_module, globals[i].module) &&
            is_text(name, n_name, globals[i].name)) {
            push(p, (value){.kind = DATA_PICKLE_GLOBAL, .as.integer = (int64_t)i});
            return;
        }
    }
    push(p, opaque);
}

/* --- what calls stand for --------------------------------------------------------------------- */

static const value *item(const value *v, int64_t i)
{
    return data_pickle_item(v, i);
}

/* ('storage', type, key, location, numel) */
static void push_persistent(data_pickle *p)
{
    const value id = pop(p);
    const value *type, *key, *numel;
    data_pickle_storage *storage;

    if (p->status != AG_OK)
        return;
    if (id.kind != DATA_PICKLE_TUPLE || data_pickle_length(&id) != 5 ||
        !data_pickle_is_text(item(&id, 0), "storage")) {
        bad(p, "a persistent id that is no storage");
        return;
    }
    type = item(&id, 1);
    key = item(&id, 2);
    numel = item(&id, 4);
    if (type->kind == DATA_PICKLE_OPAQUE) { /* a type that we do not read */
        push(p, opaque);
        return;
    }
    if (type->kind != DATA_PICKLE_GLOBAL || globals[type->as.integer].meaning != STORAGE_TYPE ||
        key->kind != DATA_PICKLE_STRING || key->n == 0 || key->n > 255 ||
        numel->kind != DATA_PICKLE_INT || numel->as.integer < 0) {
        bad(p, "a storage that is not (type, key, location, count)");
        return;
    }
    storage = take(p, sizeof *storage);
    if (!storage)
        return;
    *storage = (data_pickle_storage){globals[type->as.integer].dtype, key->as.text, key->n,
                                     numel->as.integer};
    push(p, (value){.kind = DATA_PICKLE_STORAGE, .as.storage = storage});
}

/* Copy a tuple of whole numbers >= 0. */
static bool take_numbers(int64_t *to, const value *tuple)
{
    const int64_t n = data_pickle_length(tuple);

    if (tuple->kind != DATA_PICKLE_TUPLE || n > DATA_TENSOR_DIMS)
        return false;
    for (int64_t i = 0; i < n; i++) {
        const value *v = item(tuple, i);

        if (v->kind != DATA_PICKLE_INT || v->as.integer < 0)
            return false;
        to[i] = v->as.integer;
    }
    return true;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]) */
static value rebuild_tensor(data_pickle *p, const value *args)
{
    const int64_t n_args = data_pickle_length(args);
    const value *storage = item(args, 0), *offset = item(args, 1);
    data_pickle_tensor *t;

    if (n_args < 6 || n_args > 7) {
        bad(p, "a tensor of the wrong number of parts");
        return opaque;
    }
    if (storage->kind == DATA_PICKLE_OPAQUE)
        return opaque;
    if (p->n_tensors++ == DATA_PICKLE_TENSORS) {
        bad(p, "too many tensors");
        return opaque;
    }
    t = take(p, sizeof *t);
    if (!t)
        return opaque;
    if (storage->kind != DATA_PICKLE_STORAGE || offset->kind != DATA_PICKLE_INT ||
        offset->as.integer < 0 || !take_numbers(t->dims, item(args, 2)) ||
        !take_numbers(t->strides, item(args, 3)) ||
        data_pickle_length(item(args, 2)) != data_pickle_length(item(args, 3))) {
        bad(p, "a tensor that is not (storage, offset, size, stride)");
        return opaque;
    }
    t->storage = storage->as.storage;
    t->offset = offset->as.integer;
    t->n_dims = (int)data_pickle_length(item(args, 2));
    return (value){.kind = DATA_PICKLE_TENSOR, .as.tensor = t};
}

/* OrderedDict(), or OrderedDict([[key, value], ...]) as Python 2 wrote it. */
static value ordered_dict(data_pickle *p, const value *args)
{
    const value dict = container(p, DATA_PICKLE_DICT), *list = item(args, 0);

    if (p->status != AG_OK || data_pickle_length(args) == 0)
        return dict;
    for (int64_t i = 0; i < data_pickle_length(list); i++) {
        const value *pair = item(list, i);

        if (data_pickle_length(pair) != 2 || pair->kind == DATA_PICKLE_DICT) {
            bad(p, "a dictionary made of what is no pair");
            return opaque;
        }
        append(p, dict.as.items, pair->as.items->values, 2);
    }
    return dict;
}

static void call(data_pickle *p)
{
    const value args = pop(p), callee = pop(p);
    value result = opaque;

    if (p->status != AG_OK)
        return;
    if (args.kind != DATA_PICKLE_TUPLE && args.kind != DATA_PICKLE_OPAQUE)
        bad(p, "a call without a tuple of arguments");
    else if (callee.kind == DATA_PICKLE_GLOBAL && args.kind == DATA_PICKLE_TUPLE) {
        switch (globals[callee.as.integer].meaning) {
        case ORDERED_DICT:
            result = ordered_dict(p, &args);
            break;
        case REBUILD_TENSOR:
            result = rebuild_tensor(p, &args);
            break;
        case REBUILD_PARAMETER: /* (tensor, requires_grad, hooks) */
            if (data_pickle_length(&args) == 3 && item(&args, 0)->kind == DATA_PICKLE_TENSOR)
                result = *item(&args, 0);
            else if (data_pickle_length(&args) != 3 || item(&args, 0)->kind != DATA_PICKLE_OPAQUE)
                bad(p, "a parameter that is not (tensor, requires_grad, hooks)");
            break;
        case SIZE:
            if (data_pickle_length(&args) == 1 && item(&args, 0)->kind == DATA_PICKLE_TUPLE)
                result = *item(&args, 0);
            break;
        default:
            break;
        }
    } else if (callee.kind != DATA_PICKLE_OPAQUE && callee.kind != DATA_PICKLE_GLOBAL) {
        bad(p, "calls what is no name");
    }
    push(p, result);
}

/* Setting the state of an object: its attributes are nothing to us. */
static void build(data_pickle *p)
{
    const value *to;

    (void)pop(p);
    to = peek(p, 0);
    if (to && to->kind != DATA_PICKLE_OPAQUE && to->kind != DATA_PICKLE_DICT &&
        to->kind != DATA_PICKLE_TENSOR)
        bad(p, "sets the state of what has none");
}

static void memo_put(data_pickle *p, uint64_t i)
{
    const value *v = peek(p, 0);

    if (!v)
        return;
    if (i >= DATA_PICKLE_STACK) {
        bad(p, "the memo is too large");
        return;
    }
    if ((int64_t)i >= p->n_memo) {
        const int64_t room = 2 * (int64_t)i + 64;
        value *memo = ag_grow(p->ctx, p->memo, (size_t)room, sizeof *memo, p->name);
        uint8_t *is_memo;

        if (!memo) {
            p->status = AG_ENOMEM;
            return;
        }
        p->memo = memo;
        is_memo = ag_grow(p->ctx, p->is_memo, (size_t)room, 1, p->name);
        if (!is_memo) {
            p->status = AG_ENOMEM;
            return;
        }
        memset(is_memo + p->n_memo, 0, (size_t)(room - p->n_memo));
        p->is_memo = is_memo;
        p->n_memo = room;
    }
    p->memo[i] = *v;
    p->is_memo[i] = 1;
}

static void memo_get(data_pickle *p, uint64_t i)
{
    if (i < (uint64_t)p->n_memo && p->is_memo[i])
        push(p, p->memo[i]);
    else
        bad(p, "recalls what was never kept");
}

static void protocol(data_pickle *p)
{
    const uint64_t version = operand_number(p, 1);

    if (p->op != p->begin)
        bad(p, "the protocol stands inside");
    else if (p->status == AG_OK && version > 2)
        p->status = ag_fail(p->ctx, AG_EUNSUPPORTED, "%s: pickle protocol %d, torch.save writes 2",
                            p->name, (int)version);
}

/* --- the instructions ------------------------------------------------------------------------- */

static void set_mark(data_pickle *p)
{
    if (p->n_marks == DATA_PICKLE_DEPTH)
        bad(p, "nested too deep");
    else
        p->marks[p->n_marks++] = p->n_stack;
}

/* Run one instruction that is not STOP. */
static void run(data_pickle *p, uint8_t op)
{
    switch (op) {
    case 0x80: protocol(p); break;
    case '(': set_mark(p); break;
    case '0': /* POP; on a mark, POP_MARK */
        if (p->n_marks && p->n_stack == floor_of(p))
            p->n_marks--;
        else
            (void)pop(p);
        break;
    case '1': p->n_stack = pop_mark(p); break;

    case 'N': push(p, (value){.kind = DATA_PICKLE_NONE}); break;
    case 0x88: push(p, (value){.kind = DATA_PICKLE_BOOL, .as.integer = 1}); break;
    case 0x89: push(p, (value){.kind = DATA_PICKLE_BOOL, .as.integer = 0}); break;
    case 'J': push_integer(p, (int32_t)(uint32_t)operand_number(p, 4)); break;
    case 'K': push_integer(p, (int64_t)operand_number(p, 1)); break;
    case 'M': push_integer(p, (int64_t)operand_number(p, 2)); break;
    case 0x8A: push_long(p, (size_t)operand_number(p, 1)); break;
    case 0x8B: push_long(p, (size_t)operand_number(p, 4)); break;
    case 'G': push_real(p); break;
    case 'X': push_text(p, (size_t)operand_number(p, 4)); break;
    case 'T': push_text(p, (size_t)operand_number(p, 4)); break;
    case 'U': push_text(p, (size_t)operand_number(p, 1)); break;

    case ')': push(p, (value){.kind = DATA_PICKLE_TUPLE}); break;
    case ']': push(p, container(p, DATA_PICKLE_LIST)); break;
    case '}': push(p, container(p, DATA_PICKLE_DICT)); break;
    case 't': make_tuple(p, pop_mark(p)); break;
    case 0x85: /* of 1, 2 and 3 values */
    case 0x86:
    case 0x87:
        if (peek(p, op - 0x85))
            make_tuple(p, p->n_stack - (op - 0x84));
        break;
    case 'a': add_items(p, p->n_stack - 1, false); break;
    case 'e': add_items(p, pop_mark(p), false); break;
    case 's': add_items(p, p->n_stack - 2, true); break;
    case 'u': add_items(p, pop_mark(p), true); break;

    case 'q': memo_put(p, operand_number(p, 1)); break;
    case 'r': memo_put(p, operand_number(p, 4)); break;
    case 'h': memo_get(p, operand_number(p, 1)); break;
    case 'j': memo_get(p, operand_number(p, 4)); break;

    case 'c': push_global(p); break;
    case 'Q': push_persistent(p); break;
    case 'R':                  /* callee(*args) */
    case 0x81: call(p); break; /* callee.__new__(callee, *args) */
    case 'b': build(p); break;
    default:
        bad(p, "an instruction that torch.save does not write");
    }
}

static void run_all(data_pickle *p)
{
    if (p->at == p->end || *p->at != 0x80) {
        p->op = p->at;
        bad(p, "does not begin with its protocol");
    }
    while (p->status == AG_OK) {
        if (p->at == p->end) {
            p->op = p->at;
            bad(p, "the pickle is cut short");
            return;
        }
        p->op = p->at++;
        if (*p->op == '.')
            break;
        run(p, *p->op);
    }
    if (p->status == AG_OK && p->at != p->end)
        bad(p, "goes on after its end");
    if (p->status == AG_OK && (p->n_stack != 1 || p->n_marks != 0))
        bad(p, "ends with more or less than one value");
    if (p->status == AG_OK)
        p->top = p->stack[0];
}

ag_status data_pickle_read(data_pickle **out, ag_ctx *ctx, const char *name, const uint8_t *bytes,
                           size_t n)
{
    data_pickle *p;
    ag_status status;

    if (n > DATA_PICKLE_BYTES)
        return ag_fail(ctx, AG_EDATA, "%s: a pickle of %zu bytes, at most %d are taken", name, n,
                       DATA_PICKLE_BYTES);
    p = ag_new(ctx, 1, sizeof *p, name);
    if (!p)
        return AG_ENOMEM;
    p->ctx = ctx;
    p->name = name;
    p->begin = p->at = p->op = bytes;
    p->end = bytes + n;
    run_all(p);
    status = p->status;
    if (status != AG_OK) {
        data_pickle_free(p);
        return status;
    }
    *out = p;
    return AG_OK;
}

void data_pickle_free(data_pickle *p)
{
    if (!p)
        return;
    while (p->nodes) {
        node *next = p->nodes->next;

        if (p->nodes->items)
            ag_delete(p->nodes->items->values);
        ag_delete(p->nodes);
        p->nodes = next;
    }
    ag_delete(p->is_memo);
    ag_delete(p->memo);
    ag_delete(p->stack);
    ag_delete(p);
}

/* --- asking ----------------------------------------------------------------------------------- */

const data_pickle_value *data_pickle_top(const data_pickle *p)
{
    return &p->top;
}

int64_t data_pickle_length(const data_pickle_value *v)
{
    return has_items(v) && v->as.items ? v->as.items->n : 0;
}

const data_pickle_value *data_pickle_item(const data_pickle_value *v, int64_t i)
{
    return i < data_pickle_length(v) ? &v->as.items->values[i] : &opaque;
}

bool data_pickle_is_text(const data_pickle_value *v, const char *text)
{
    return v->kind == DATA_PICKLE_STRING && is_text(v->as.text, v->n, text);
}
