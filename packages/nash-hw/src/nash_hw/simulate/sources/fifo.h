// A stream between two layers, cycle for cycle as FINN's finn-rtllib/fifo/hdl/fifo.sv in each of its forms. Depth and
// form are set when the simulation starts, so no sizing needs a new compilation.
#pragma once
#include <cstring>
#include <vector>

namespace nash {

enum class Style { SHIFT, DISTRIBUTED, BLOCK, ULTRA, DEEP };

inline int clog2(unsigned value) {
    int bits = 0;
    while ((1ull << bits) < value) bits++;
    return bits;
}

// The words behind each other in the memory, the read pipeline and the output register, in one ring.
class Fifo {
  public:
    void set(Style style, unsigned depth, unsigned bytes) {
        style_ = style;
        bytes_ = bytes;
        capacity_ = memory_words(style, depth);
        num_stages_ = style == Style::BLOCK ? 2 : style == Style::ULTRA ? 3 + ((1u << main_bits(style, depth)) - 1) / 8192 : 0;
        stages_.assign(num_stages_, 0);
        room_ = style == Style::DEEP ? 64 : capacity_ + num_stages_ + QUEUE + 4;
        ring_.assign(size_t(room_) * bytes_, 0);
    }
    bool ready() const { return in_memory_ < capacity_; }
    bool valid() const { return valid_; }
    const uint8_t* front() const { return &ring_[size_t(first_) * bytes_]; }
    unsigned held() const { return held_; }

    // End a cycle: `word` is what enters, null if nothing does; `ready` tells whether the reader takes.
    void step(const uint8_t* word, bool ready) {
        const bool leaves = valid_ && ready;
        const bool moves = !valid_ || ready;  // the output register, and what stops with it
        const unsigned was_in_memory = in_memory_;
        if (word) push(word);
        bool drains = false;
        if (style_ == Style::BLOCK) {
            drains = moves && was_in_memory;
            if (moves) { valid_ = stages_[1]; stages_[1] = drains; }  // its last stage is the output
        } else if (style_ == Style::ULTRA) {
            drains = was_in_memory && unsettled_ < QUEUE + 1;
            unsettled_ += int(drains) - int(leaves);
            const bool arrives = stages_[0];
            for (unsigned i = 0; i + 1 < num_stages_; i++) stages_[i] = stages_[i + 1];
            stages_[num_stages_ - 1] = drains;
            if (moves) { valid_ = queued_ > 0; queued_ -= valid_; }
            queued_ += arrives;
        } else {
            drains = moves && was_in_memory;
            if (moves) valid_ = drains;
        }
        in_memory_ -= drains;
        if (leaves) { first_ = first_ + 1 == room_ ? 0 : first_ + 1; held_--; }
    }

  private:
    static constexpr unsigned QUEUE = 16;  // behind an UltraRAM

    static unsigned main_bits(Style style, unsigned depth, unsigned* rest = nullptr) {
        const unsigned wanted = depth - (style == Style::ULTRA ? QUEUE : 0) - 1;
        unsigned low = clog2(wanted), high = 0;
        if (int(low) > (style == Style::ULTRA ? 12 : 9)) {
            const unsigned high_bits = clog2(wanted - (1u << (low - 1)));
            if (high_bits < low - 1) { low--; high = high_bits < 1 ? 1 : high_bits; }
        }
        if (rest) *rest = high;
        return low;
    }
    static unsigned memory_words(Style style, unsigned depth) {
        switch (style) {
            case Style::SHIFT: return depth > 4 ? depth - 1 : 4;
            case Style::DISTRIBUTED: return depth - 1;
            case Style::DEEP: return ~0u;
            default: break;
        }
        unsigned high, low = main_bits(style, depth, &high);
        return (1u << low) + (high ? 1u << high : 0);
    }
    void push(const uint8_t* word) {
        if (held_ == room_) grow();
        const unsigned at = first_ + held_ >= room_ ? first_ + held_ - room_ : first_ + held_;
        memcpy(&ring_[size_t(at) * bytes_], word, bytes_);
        held_++;
        in_memory_++;
    }
    void grow() {
        std::vector<uint8_t> larger(size_t(room_) * 2 * bytes_);
        for (unsigned i = 0; i < held_; i++)
            memcpy(&larger[size_t(i) * bytes_], &ring_[size_t((first_ + i) % room_) * bytes_], bytes_);
        ring_.swap(larger);
        first_ = 0;
        room_ *= 2;
    }

    Style style_ = Style::SHIFT;
    unsigned bytes_ = 1, capacity_ = 0, num_stages_ = 0, room_ = 0;
    unsigned first_ = 0, held_ = 0, in_memory_ = 0, queued_ = 0;
    int unsettled_ = 0;
    bool valid_ = false;
    std::vector<uint8_t> ring_;
    std::vector<uint8_t> stages_;
};

}  // namespace nash
