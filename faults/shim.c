/* Faults of a disk, below a program that knows nothing of them: full after a byte, or killed at an operation.

   cc -shared -fPIC -O2 shim.c -o shim.so -ldl, and LD_PRELOAD=shim.so FAULT_FOLDER=/a/folder FAULT_CONTROL=/a/file.
   The control file has four integers of 64 bits that a process and its children share: bytes that may still be
   written (-1: any number), bytes written, operations done, the operation at which the process group is killed (-1:
   never). Operations are what changes files below the folder: to create, write, flush, rename, remove, make a folder.
   A full disk takes a part of a write, then none, and no new files. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static struct control { int64_t left, written, operations, kill_at; } *control;
static char folder[4096];
static size_t length;

void fault_arm(const char *path, const char *below) {
    int (*plain)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int file = plain(path, O_RDWR);
    if (file < 0) return;
    void *place = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (place == MAP_FAILED) return;
    length = strlen(below);
    memcpy(folder, below, length + 1);
    control = place;
}

__attribute__((constructor)) static void begin(void) {
    if (getenv("FAULT_CONTROL") && getenv("FAULT_FOLDER")) fault_arm(getenv("FAULT_CONTROL"), getenv("FAULT_FOLDER"));
}

static int is_below(const char *path) {
    return !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int names_ours(int base, const char *path) {
    char full[8192], link[64];
    if (!control || !path) return 0;
    if (path[0] == '/') return is_below(path);
    if (base == AT_FDCWD) {
        if (!getcwd(full, 4096)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", base);
        ssize_t size = readlink(link, full, 4095);
        if (size < 0) return 0;
        full[size] = 0;
    }
    return is_below(full);
}

static int is_ours(int file) {
    struct stat found;
    if (!control || fstat(file, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode))) return 0;
    return names_ours(file, "");
}

static void count(void) {
    if (__sync_fetch_and_add(&control->operations, 1) == control->kill_at) {
        kill(0, SIGKILL);
        pause();
    }
}

static int is_full(void) { return control->left == 0; }

/* Return how much of a write the disk takes. */
static size_t taken(size_t wanted) {
    int64_t left = control->left, part = left < 0 || (int64_t)wanted < left ? (int64_t)wanted : left;
    if (left >= 0) __sync_fetch_and_sub(&control->left, part);
    __sync_fetch_and_add(&control->written, part);
    return part;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define FULL return errno = ENOSPC, -1

ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    if (is_ours(file) && size) {
        count();
        if (!(size = taken(size))) FULL;
    }
    return real(file, data, size);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    if (is_ours(file) && size) {
        count();
        if (!(size = taken(size))) FULL;
    }
    return real(file, data, size, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }

ssize_t writev(int file, const struct iovec *parts, int number) {
    REAL(writev);
    if (!is_ours(file)) return real(file, parts, number);
    ssize_t total = 0;
    for (int i = 0; i < number; i++) {
        if (!parts[i].iov_len) continue;
        ssize_t done = write(file, parts[i].iov_base, parts[i].iov_len);
        if (done < 0) return total ? total : -1;
        total += done;
        if ((size_t)done < parts[i].iov_len) break;
    }
    return total;
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
    static ssize_t (*real)(int, int, off64_t *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "sendfile64");
    if (is_ours(out)) return errno = EINVAL, -1; /* and the program writes instead */
    return real(out, in, offset, size);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) { return sendfile64(out, in, offset, size); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    if (is_ours(out)) return errno = EINVAL, -1;
    return real(in, from, out, to, size, flags);
}

int fsync(int file) {
    REAL(fsync);
    if (is_ours(file)) count();
    return real(file);
}

static int opened(int base, const char *path, int flags, mode_t mode) {
    static int (*real)(int, const char *, int, ...);
    if (!real) real = dlsym(RTLD_NEXT, "openat");
    if ((flags & O_CREAT) && names_ours(base, path)) {
        count();
        if (is_full() && faccessat(base, path, F_OK, 0)) FULL;
    }
    return real(base, path, flags, mode);
}

#define MODE \
    va_list rest; \
    va_start(rest, flags); \
    mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
    va_end(rest)

int open(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode); }
int openat(int base, const char *path, int flags, ...) { MODE; return opened(base, path, flags, mode); }
int openat64(int base, const char *path, int flags, ...) { MODE; return opened(base, path, flags, mode); }

static FILE *fopened(const char *symbol, const char *path, const char *mode) {
    FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, symbol);
    if (mode[0] != 'r' && names_ours(AT_FDCWD, path)) {
        count();
        if (is_full() && access(path, F_OK)) return errno = ENOSPC, NULL;
    }
    return real(path, mode);
}

FILE *fopen(const char *path, const char *mode) { return fopened("fopen", path, mode); }
FILE *fopen64(const char *path, const char *mode) { return fopened("fopen64", path, mode); }

int mkdirat(int base, const char *path, mode_t mode) {
    REAL(mkdirat);
    if (names_ours(base, path)) {
        count();
        if (is_full() && faccessat(base, path, F_OK, 0)) FULL;
    }
    return real(base, path, mode);
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int renameat(int from, const char *old, int to, const char *new) {
    REAL(renameat);
    if (names_ours(to, new)) count();
    return real(from, old, to, new);
}

int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int unlinkat(int base, const char *path, int flags) {
    REAL(unlinkat);
    if (names_ours(base, path)) count();
    return real(base, path, flags);
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
