// The part of zlib that the writer of FST files asks for, without compression: stored blocks.
#pragma once
#include <algorithm>
#include <cstring>

typedef unsigned long uLong, uLongf;
typedef unsigned char Bytef;
constexpr int Z_OK = 0;

inline uLong compressBound(uLong size) { return size + 5 * (size / 65535 + 1) + 6; }

inline int compress2(Bytef* target, uLongf* target_size, const Bytef* source, uLong size, int) {
    Bytef* at = target;
    *at++ = 0x78;
    *at++ = 0x01;
    uLong a = 1, b = 0, done = 0;
    do {
        const uLong part = std::min<uLong>(size - done, 65535);
        *at++ = done + part == size;
        *at++ = Bytef(part);
        *at++ = Bytef(part >> 8);
        *at++ = Bytef(~part);
        *at++ = Bytef(~part >> 8);
        memcpy(at, source + done, part);
        for (uLong i = 0; i < part; i++) {
            a = (a + source[done + i]) % 65521;
            b = (b + a) % 65521;
        }
        at += part;
        done += part;
    } while (done < size);
    for (const uLong value : {b, a}) {
        *at++ = Bytef(value >> 8);
        *at++ = Bytef(value);
    }
    *target_size = at - target;
    return Z_OK;
}
