// What the compiler may emit calls to, for programs without a C library.
extern "C" void* memset(void* target, int value, unsigned long size) {
  volatile char* bytes = static_cast<volatile char*>(target);
  for (unsigned long i = 0; i < size; i++) bytes[i] = static_cast<char>(value);
  return target;
}
extern "C" void* memcpy(void* target, const void* source, unsigned long size) {
  volatile char* to = static_cast<volatile char*>(target);
  const char* from = static_cast<const char*>(source);
  for (unsigned long i = 0; i < size; i++) to[i] = from[i];
  return target;
}
