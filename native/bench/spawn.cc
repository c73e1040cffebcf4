// Starts programs and waits for them, so that what is timed is theirs and not that of an interpreter that starts them.
// Each line of stdin is a command, its words separated by tabs; the answer is the nanoseconds from posix_spawn(3) until
// its end was collected, and its exit code. Their output goes to stderr.
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vector>

extern char** environ;

namespace {

long long Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000LL + time.tv_nsec;
}

// 128 and the signal's number, when one ended it; -1 when it could not be started.
int Run(char* const* words, const posix_spawn_file_actions_t& streams) {
  pid_t pid;
  int error = posix_spawn(&pid, words[0], &streams, nullptr, words, environ);
  if (error != 0) {
    fprintf(stderr, "spawn: %s: %s\n", words[0], strerror(error));
    return -1;
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

int main() {
  setsid();  // a terminal's interrupt would end a container's maker before it has cleaned up
  posix_spawn_file_actions_t streams;
  posix_spawn_file_actions_init(&streams);
  posix_spawn_file_actions_addopen(&streams, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&streams, 2, 1);
  char* line = nullptr;
  size_t capacity = 0;
  for (ssize_t size; (size = getline(&line, &capacity, stdin)) > 0;) {
    if (line[size - 1] == '\n') line[size - 1] = 0;
    std::vector<char*> words;
    for (char* word = strtok(line, "\t"); word != nullptr; word = strtok(nullptr, "\t")) words.push_back(word);
    words.push_back(nullptr);
    if (words[0] == nullptr) continue;
    long long began = Now();
    int code = Run(words.data(), streams);
    printf("{\"ns\":%lld,\"code\":%d}\n", Now() - began, code);
    fflush(stdout);
  }
  free(line);
  return 0;
}
