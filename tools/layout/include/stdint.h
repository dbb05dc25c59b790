/* The two types that drop_activation.h takes from <stdint.h>, so that libclang needs no system headers:
 * its PyPI wheel has none. bindgen knows them by name. */
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
