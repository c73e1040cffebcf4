#include "network.h"

#include "kernel.h"
#include "syscalls.h"

namespace {

enum : int { AF_INET = 2, AF_INET6 = 10, AF_NETLINK = 16, SOCK_STREAM = 1, SOCK_RAW = 3, IPPROTO_IPV6 = 41, IPV6_V6ONLY = 26 };
enum : long { kExists = -17, kNoFamily = -97 };  // EEXIST, EAFNOSUPPORT
constexpr int kBacklog = 128;
constexpr u32 kLoopback = 1;  // the first interface of every network namespace

struct Route {
  unsigned char bytes[16];
  u32 size, prefix;
};

bool TakeNumber(const char** at, u32 most, u32* number) {
  const char* start = *at;
  for (*number = 0; **at >= '0' && **at <= '9'; ++*at) {
    *number = *number * 10 + static_cast<u32>(**at - '0');
    if (*number > most) return false;
  }
  return *at != start;
}

int HexDigit(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

bool TakeRoute(const char** at, Route* route) {
  for (route->size = 0; **at != '/'; *at += 2) {
    const int high = HexDigit((*at)[0]), low = high < 0 ? -1 : HexDigit((*at)[1]);
    if (low < 0 || route->size == sizeof route->bytes) return false;
    route->bytes[route->size++] = static_cast<unsigned char>(high << 4 | low);
  }
  ++*at;
  return (route->size == 4 || route->size == 16) && TakeNumber(at, route->size * 8, &route->prefix);
}

// One for both families, or for the only one that there is.
long Listen(u32 port) {
  struct {
    u16 family, port;
    u32 rest[6];
  } address = {AF_INET6, static_cast<u16>(port << 8 | port >> 8), {}};
  u32 size = 28;
  long socket = Syscall(__NR_socket, AF_INET6, SOCK_STREAM | O_CLOEXEC | O_NONBLOCK, 0);
  if (socket == kNoFamily) {
    address.family = AF_INET;
    size = 16;
    socket = Syscall(__NR_socket, AF_INET, SOCK_STREAM | O_CLOEXEC | O_NONBLOCK, 0);
  }
  if (socket < 0) return socket;
  const int no = 0;
  long result = 0;
  if (address.family == AF_INET6) result = Syscall(__NR_setsockopt, socket, IPPROTO_IPV6, IPV6_V6ONLY, Word(&no), sizeof no);
  if (result >= 0) result = Syscall(__NR_bind, socket, Word(&address), size);
  if (result >= 0) result = Syscall(__NR_listen, socket, kBacklog);
  if (result >= 0) return socket;
  Syscall(__NR_close, socket);
  return result;
}

// What is sent there then arrives here. As `ip route add local NETWORK dev lo`.
long AddRoute(const Route& route) {
  struct {
    u32 size;
    u16 type, flags;
    u32 sequence, port;
    unsigned char family, to_prefix, from_prefix, service, table, protocol, scope, kind;
    u32 route_flags;
    u16 device_size, device_type;
    u32 device;
    u16 to_size, to_type;
    unsigned char to[16];
  } request = {};
  struct {
    u32 size;
    u16 type, flags;
    u32 sequence, port;
    int error;
    char rest[256];
  } answer = {};
  request.size = sizeof request - sizeof request.to + route.size;
  request.type = 24;              // RTM_NEWROUTE
  request.flags = 1 | 4 | 0x400;  // NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE
  request.family = route.size == 4 ? AF_INET : AF_INET6;
  request.to_prefix = static_cast<unsigned char>(route.prefix);
  request.table = 255;   // RT_TABLE_LOCAL
  request.protocol = 4;  // RTPROT_STATIC
  request.scope = 254;   // RT_SCOPE_HOST
  request.kind = 2;      // RTN_LOCAL
  request.device_size = 8;
  request.device_type = 4;  // RTA_OIF
  request.device = kLoopback;
  request.to_size = static_cast<u16>(4 + route.size);
  request.to_type = 1;  // RTA_DST
  for (u32 i = 0; i < route.size; i++) request.to[i] = route.bytes[i];
  long socket = Syscall(__NR_socket, AF_NETLINK, SOCK_RAW | O_CLOEXEC, 0);
  if (socket < 0) return socket;
  long result = Syscall(__NR_write, socket, Word(&request), request.size);
  if (result >= 0) result = Syscall(__NR_read, socket, Word(&answer), sizeof answer);
  Syscall(__NR_close, socket);
  if (result < 0) return result;
  if (answer.error == kExists) return 0;
  // Without IPv6 here nothing goes there, as nothing would from the host.
  return route.size == 4 ? answer.error : 0;
}

}  // namespace

long OpenListeners(const char* word, Listeners* made) {
  const char* at = word;
  while (*at != 0) {
    const char kind = *at++;
    u32 port = 0;
    Route route = {};
    long result = -EPROTO;
    if (kind == 'p' && TakeNumber(&at, 65535, &port) && made->count < kMaxListeners) {
      result = Listen(port);
      if (result >= 0) made->fds[made->count++] = static_cast<int>(result);
    } else if (kind == 'r' && TakeRoute(&at, &route)) {
      result = AddRoute(route);
    }
    if (result < 0) return result;
    if (*at++ != ';') return -EPROTO;
  }
  return 0;
}
