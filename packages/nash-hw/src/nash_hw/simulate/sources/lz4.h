// The part of LZ4 that the writer of FST files asks for, without compression: one block of literals.
#pragma once
#include <cstring>

inline int LZ4_compressBound(int size) { return size + size / 255 + 16; }

inline int LZ4_compress_default(const char* source, char* target, int size, int) {
    char* at = target;
    if (size < 15) {
        *at++ = char(size << 4);
    } else {
        *at++ = char(0xF0);
        int left = size - 15;
        for (; left >= 255; left -= 255) *at++ = char(255);
        *at++ = char(left);
    }
    memcpy(at, source, size);
    return int(at - target) + size;
}
