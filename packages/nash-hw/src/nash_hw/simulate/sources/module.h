// What the kernel and a compiled layer agree on. A layer is a shared library made by Verilator; its AXI streams are
// bytes in memory, valid and ready one each, data as Verilator stores a word (least significant byte first).
#pragma once
#include <cstddef>
#include <cstdint>

class VerilatedContext;

namespace nash {

constexpr int MAX_PORTS = 16;

struct Port {
    uint8_t* valid = nullptr;
    uint8_t* ready = nullptr;
    uint8_t* data = nullptr;
};

struct Pins {
    uint8_t* clk = nullptr;
    uint8_t* rst_n = nullptr;
    uint8_t* clk_before = nullptr;  // what Verilator compares the clock with to see it rise
    uint8_t* state = nullptr;       // all registers and wires of the layer
    size_t state_bytes = 0;
    Port in[MAX_PORTS], out[MAX_PORTS];
};

struct Module {
    int num_in;
    int num_out;
    bool is_registered;  // no output follows an input within a cycle
    void* (*make)(VerilatedContext* context, const char* name, Pins* pins);
    void (*eval)(void* layer);
    void (*drop)(void* layer);
};

}  // namespace nash
