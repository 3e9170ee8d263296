// Drives a compiled fifo.sv and the kernel's FIFO with the same random words and waits; tells where they differ.
// fifo_check MODULE.so STYLE DEPTH CYCLES
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "fifo.h"
#include "module.h"
#include "verilated.h"

int main(int, char** argv) {
    const std::map<std::string, nash::Style> styles = {{"shift", nash::Style::SHIFT}, {"distributed", nash::Style::DISTRIBUTED},
                                                       {"block", nash::Style::BLOCK}, {"ultra", nash::Style::ULTRA}};
    void* library = dlopen(argv[1], RTLD_NOW);
    if (!library) { puts(dlerror()); return 2; }
    const auto* module = static_cast<const nash::Module*>(dlsym(library, "nash_module"));
    VerilatedContext context;
    nash::Pins pins;
    void* rtl = module->make(&context, "fifo", &pins);
    nash::Fifo model;
    model.set(styles.at(argv[2]), atoi(argv[3]), 2);
    *pins.in[0].valid = *pins.out[0].ready = 0;
    for (int i = 0; i < 40; i++) {
        *pins.rst_n = 0;
        *pins.clk = i % 2;
        module->eval(rtl);
    }
    *pins.rst_n = 1;
    uint16_t next = 0;
    unsigned most = 0;
    for (int cycle = 0; cycle < atoi(argv[4]); cycle++) {
        const int phase = cycle / 4000 % 4;  // fills, full, drains, both at random
        const int send = phase == 2 ? 20 : phase == 1 ? 100 : 80, take = phase == 0 ? 20 : phase == 2 ? 100 : 60;
        *pins.in[0].valid = rand() % 100 < send;
        *pins.out[0].ready = rand() % 100 < take;
        memcpy(pins.in[0].data, &next, 2);
        *pins.clk = 0;
        module->eval(rtl);
        const bool is_same = *pins.in[0].ready == model.ready() && *pins.out[0].valid == model.valid() &&
                             (!model.valid() || !memcmp(pins.out[0].data, model.front(), 2));
        if (!is_same) { printf("cycle %d differs, %u words held\n", cycle, model.held()); return 1; }
        const bool enters = *pins.in[0].valid && *pins.in[0].ready;
        model.step(enters ? pins.in[0].data : nullptr, *pins.out[0].ready);
        next += enters;
        if (model.held() > most) most = model.held();
        *pins.clk = 1;
        module->eval(rtl);
    }
    printf("%u\n", most);
    return 0;
}
