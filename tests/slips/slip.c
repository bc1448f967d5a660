/* Takes syncs away from a program, by LD_PRELOAD: the mistakes that the power-cut tests have to
 * find. SLIP names the one to make:
 *
 *   data       data files are not synced
 *   record     records (*.meta) are not synced
 *   directory  directories are not synced
 *   order      data is synced only after the record that speaks of it
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { DATA, RECORD, DIRECTORY, OTHER };

static enum kind kind_of(int fd)
{
    struct stat stat;
    if (fstat(fd, &stat) == 0 && S_ISDIR(stat.st_mode))
        return DIRECTORY;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return OTHER;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    /* A record is written under a temporary name first. */
    if (strstr(name, ".meta") != NULL || strncmp(name, ".tmp-", 5) == 0)
        return RECORD;
    /* The data is named by the upload's id alone. */
    return strlen(name) == 36 ? DATA : OTHER;
}

static int is(const char *slip)
{
    const char *wanted = getenv("SLIP");
    return wanted != NULL && strcmp(wanted, slip) == 0;
}

/* Data whose sync was put off. One lock for all: this is about order, not about speed. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int put_off[4096];
static int put_off_count;

static int slip(int fd, int (*real)(int))
{
    enum kind kind = kind_of(fd);
    if ((kind == DATA && is("data")) || (kind == RECORD && is("record")) ||
        (kind == DIRECTORY && is("directory")))
        return 0;
    if (!is("order"))
        return real(fd);
    if (kind == DATA) {
        pthread_mutex_lock(&lock);
        if (put_off_count < 4096)
            put_off[put_off_count++] = dup(fd);
        pthread_mutex_unlock(&lock);
        return 0;
    }
    int done = real(fd);
    usleep(20 * 1000);
    pthread_mutex_lock(&lock);
    while (put_off_count > 0) {
        int data = put_off[--put_off_count];
        real(data);
        close(data);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int fdatasync(int fd)
{
    return slip(fd, (int (*)(int))dlsym(RTLD_NEXT, "fdatasync"));
}

int fsync(int fd)
{
    return slip(fd, (int (*)(int))dlsym(RTLD_NEXT, "fsync"));
}
