// Memory that is kept from call to call: a fresh page costs more than the work on it.
#pragma once

#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

constexpr size_t PAGE = 2 << 20, LARGE = PAGE / 8;  // large pages hold what is not much smaller (`sparse/pages.py`)

// A buffer that only grows; what it held is lost when it does.
template <typename T>
class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    T* at_least(size_t count) {
        if (count > capacity_) {
            std::free(data_);
            const size_t line = count * sizeof(T) < LARGE ? 64 : PAGE, bytes = (count * sizeof(T) + line - 1) / line * line;
            data_ = static_cast<T*>(std::aligned_alloc(line, bytes));
#if defined(MADV_HUGEPAGE)
            if (data_ && line == PAGE) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
            capacity_ = data_ ? count : 0;
            if (!data_) throw std::bad_alloc();
        }
        return data_;
    }

private:
    T* data_ = nullptr;
    size_t capacity_ = 0;
};
