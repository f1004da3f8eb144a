// Memory that is kept from call to call: a fresh page costs more than the work on it.
#pragma once

#include <cstdlib>
#include <new>

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
            const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
            data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
            capacity_ = data_ ? count : 0;
            if (!data_) throw std::bad_alloc();
        }
        return data_;
    }

private:
    T* data_ = nullptr;
    size_t capacity_ = 0;
};
