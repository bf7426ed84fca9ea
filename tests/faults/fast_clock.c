/* A clock that runs faster, for whole programs: LD_PRELOAD of what tests/faults/fast_clock.py compiles from this.

   All clocks run SPEED times as fast from ORIGIN on, and every wait for so long ends SPEED times as soon: sleeps,
   polls, locks and conditions with a deadline. The wall clock can be set, too. FAST_CLOCK names a file that all
   programs with the same clock share (struct clock); it may be changed while they run. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL
#define EXPORT __attribute__((visibility("default")))

struct clock {
  int64_t origin; /* of the true monotonic clock, ns */
  int64_t wall;   /* the true wall clock at the origin, ns since 1970 */
  int64_t set_by; /* how much the wall clock is set forward, ns */
  double speed;
};

static volatile struct clock *clock_of(void) {
  static volatile struct clock *shared;
  if (shared == NULL) {
    int file = open(getenv("FAST_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *memory = mmap(NULL, sizeof(struct clock), PROT_READ, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) abort();
    close(file);
    shared = memory;
  }
  return shared;
}

static int64_t ns_of(const struct timespec *time) { return time->tv_sec * NS + time->tv_nsec; }

static struct timespec timespec_of(int64_t ns) {
  if (ns < 0) ns = 0;
  return (struct timespec){ns / NS, ns % NS};
}

static int64_t true_time(clockid_t which) { /* the vDSO's answer by the kernel: libc's own is ours now */
  struct timespec now;
  syscall(SYS_clock_gettime, which, &now);
  return ns_of(&now);
}

static int is_monotonic(clockid_t which) {
  return which == CLOCK_MONOTONIC || which == CLOCK_MONOTONIC_RAW || which == CLOCK_MONOTONIC_COARSE ||
         which == CLOCK_BOOTTIME;
}

static int is_wall(clockid_t which) { return which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE; }

static int64_t now_of(clockid_t which) {
  volatile struct clock *clock = clock_of();
  int64_t passed = (int64_t)((true_time(CLOCK_MONOTONIC) - clock->origin) * clock->speed);
  return is_wall(which) ? clock->wall + clock->set_by + passed : clock->origin + passed;
}

static struct timespec shorter(const struct timespec *wait) {
  int64_t ns = ns_of(wait), scaled = (int64_t)(ns / clock_of()->speed);
  return timespec_of(ns > 0 && scaled == 0 ? 1 : scaled);
}

/* A deadline of our clock as one of the true clock. */
static struct timespec true_deadline(clockid_t which, const struct timespec *deadline) {
  int64_t left = (int64_t)((ns_of(deadline) - now_of(which)) / clock_of()->speed);
  return timespec_of(true_time(which) + left);
}

/* --- clocks --- */

EXPORT int clock_gettime(clockid_t which, struct timespec *now) {
  if (!is_monotonic(which) && !is_wall(which)) return (int)syscall(SYS_clock_gettime, which, now);
  *now = timespec_of(now_of(which));
  return 0;
}

EXPORT int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  int64_t ns = now_of(CLOCK_REALTIME);
  *now = (struct timeval){ns / NS, ns % NS / 1000};
  return 0;
}

EXPORT time_t time(time_t *now) {
  time_t seconds = now_of(CLOCK_REALTIME) / NS;
  if (now) *now = seconds;
  return seconds;
}

/* --- sleeps and polls --- */

EXPORT int clock_nanosleep(clockid_t which, int flags, const struct timespec *wait, struct timespec *left) {
  int64_t ns = flags & TIMER_ABSTIME ? ns_of(wait) - now_of(which) : ns_of(wait);
  struct timespec length = timespec_of(ns), real = shorter(&length);
  if (syscall(SYS_nanosleep, &real, &real) == 0) return 0;
  if (left && !(flags & TIMER_ABSTIME)) *left = timespec_of((int64_t)(ns_of(&real) * clock_of()->speed));
  return errno;
}

EXPORT int nanosleep(const struct timespec *wait, struct timespec *left) {
  int error = clock_nanosleep(CLOCK_MONOTONIC, 0, wait, left);
  errno = error ? error : errno;
  return error ? -1 : 0;
}

EXPORT int usleep(useconds_t microseconds) {
  struct timespec wait = timespec_of(microseconds * 1000LL);
  return nanosleep(&wait, NULL);
}

EXPORT unsigned sleep(unsigned seconds) {
  struct timespec wait = {seconds, 0}, left = {0, 0};
  return nanosleep(&wait, &left) ? (unsigned)left.tv_sec : 0;
}

EXPORT int ppoll(struct pollfd *files, nfds_t count, const struct timespec *wait, const sigset_t *mask) {
  struct timespec real = wait ? shorter(wait) : (struct timespec){0, 0};
  return (int)syscall(SYS_ppoll, files, count, wait ? &real : NULL, mask, _NSIG / 8);
}

EXPORT int poll(struct pollfd *files, nfds_t count, int milliseconds) {
  struct timespec wait = timespec_of(milliseconds * 1000000LL);
  return ppoll(files, count, milliseconds < 0 ? NULL : &wait, NULL);
}

EXPORT int __poll_chk(struct pollfd *files, nfds_t count, int milliseconds, size_t size) {
  (void)size;
  return poll(files, count, milliseconds);
}

EXPORT int pselect(int count, fd_set *restrict read, fd_set *restrict write, fd_set *restrict other,
                   const struct timespec *restrict wait, const sigset_t *restrict mask) {
  struct timespec real = wait ? shorter(wait) : (struct timespec){0, 0};
  struct { const sigset_t *mask; size_t size; } signals = {mask, _NSIG / 8};
  return (int)syscall(SYS_pselect6, count, read, write, other, wait ? &real : NULL, &signals);
}

EXPORT int select(int count, fd_set *restrict read, fd_set *restrict write, fd_set *restrict other,
                  struct timeval *restrict wait) {
  struct timespec length = wait ? timespec_of(wait->tv_sec * NS + wait->tv_usec * 1000) : (struct timespec){0, 0};
  return pselect(count, read, write, other, wait ? &length : NULL, NULL);
}

EXPORT int epoll_pwait(int epoll, struct epoll_event *events, int most, int milliseconds, const sigset_t *mask) {
  int real = milliseconds <= 0 ? milliseconds : (int)(milliseconds / clock_of()->speed);
  return (int)syscall(SYS_epoll_pwait, epoll, events, most, milliseconds > 0 && real == 0 ? 1 : real, mask, _NSIG / 8);
}

EXPORT int epoll_wait(int epoll, struct epoll_event *events, int most, int milliseconds) {
  return epoll_pwait(epoll, events, most, milliseconds, NULL);
}

/* --- locks and conditions --- */

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

EXPORT int sem_clockwait(sem_t *restrict lock, clockid_t which, const struct timespec *restrict deadline) {
  struct timespec real = true_deadline(which, deadline);
  return NEXT(sem_clockwait)(lock, which, &real);
}

EXPORT int sem_timedwait(sem_t *restrict lock, const struct timespec *restrict deadline) {
  struct timespec real = true_deadline(CLOCK_REALTIME, deadline);
  return NEXT(sem_timedwait)(lock, &real);
}

EXPORT int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict lock, clockid_t which,
                                  const struct timespec *restrict deadline) {
  struct timespec real = true_deadline(which, deadline);
  return NEXT(pthread_cond_clockwait)(condition, lock, which, &real);
}

EXPORT int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict lock,
                                  const struct timespec *restrict deadline) {
  /* The condition does not tell its clock, and dlsym would find the one of 2002. */
  static __typeof__(&pthread_cond_timedwait) next;
  if (next == NULL) next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (next == NULL) next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  struct timespec real = true_deadline(deadline->tv_sec > 1000000000 ? CLOCK_REALTIME : CLOCK_MONOTONIC, deadline);
  return next(condition, lock, &real);
}
