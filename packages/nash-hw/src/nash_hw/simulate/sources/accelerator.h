// Layers and the FIFOs between them, advanced cycle by cycle.
//
// FINN puts a FIFO into every stream, and its two ends are registers. So every layer is evaluated once a cycle, at the
// rising clock; one whose outputs follow its inputs within a cycle is evaluated before it too. A layer whose registers
// stay as they are while its inputs do is a fixed point: it sleeps until an input changes, which saves time and changes
// nothing else.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "fifo.h"
#include "module.h"

namespace nash {

enum Activity { BUSY, WAITS, STALLS, NUM_ACTIVITIES };  // works; wants a word nobody sends; sends a word nobody takes

struct Layer {
    std::string name;
    const Module* module = nullptr;  // null: the ends of the accelerator
    void* instance = nullptr;
    Pins pins;
    int num_in = 0, num_out = 0;
    std::vector<int> in, out;  // streams by port
    bool is_touched = true, is_asleep = false;
    unsigned quiet = 0, patience = 4;  // cycles in which no input changed; of those to look for a fixed point after
    std::vector<uint8_t> snapshot;
    uint64_t cycles[NUM_ACTIVITIES] = {};
    std::vector<uint32_t> timeline;  // bucket * NUM_ACTIVITIES + activity
    uint8_t own_valid = 0, own_ready = 0;
    std::vector<uint8_t> own_data;
};

struct Stream {
    int source = -1, target = -1, source_port = 0, target_port = 0;
    unsigned bytes = 1;
    uint64_t words = 1;  // a frame
    Fifo fifo;
    Port from, to;
    bool pushes = false, pops = false, shows = false;
    uint64_t pushed = 0, popped = 0, blocked = 0, starved = 0, first = 0, last = 0;
    unsigned peak = 0;
};

class Accelerator {
  public:
    std::vector<std::unique_ptr<Layer>> layers;
    std::vector<Stream> streams;
    uint64_t cycle = 0;
    unsigned bucket = 64;
    bool is_careful = false;  // evaluate every layer at both clock edges and let none sleep: slow, to test the rest

    static constexpr unsigned MAX_BUCKETS = 1024, MIN_PATIENCE = 4, MAX_PATIENCE = 4096;

    void connect() {
        for (size_t i = 0; i < streams.size(); i++) {
            Stream& s = streams[i];
            Layer &source = *layers[s.source], &target = *layers[s.target];
            s.from = source.pins.out[s.source_port];
            s.to = target.pins.in[s.target_port];
            source.out.push_back(i);
            target.in.push_back(i);
        }
    }

    void reset(unsigned num_cycles) {
        for (auto& layer : layers)
            for (unsigned i = 0; layer->module && i < 2 * num_cycles; i++) {
                *layer->pins.rst_n = 0;
                *layer->pins.clk = i % 2;
                layer->module->eval(layer->instance);
            }
        for (auto& layer : layers)
            if (layer->module) *layer->pins.rst_n = 1;
    }

    // Let all layers see what is new; the ends of the accelerator have set theirs.
    void settle() {
        for (Stream& s : streams) drive(s);
        for (auto& layer : layers) {
            if (!layer->module || layer->is_asleep || !(is_careful || follows_within(*layer))) continue;
            *layer->pins.clk = 0;
            layer->module->eval(layer->instance);
        }
    }

    // Let the clock rise; return whether any word has moved.
    bool clock() {
        bool has_moved = false;
        for (Stream& s : streams) {
            s.pushes = *s.from.valid && *s.from.ready;
            s.pops = *s.to.valid && *s.to.ready;
            s.blocked += *s.from.valid && !*s.from.ready;
            s.starved += lacks(s);
            if (s.pushes) s.pushed++;
            if (s.pops) {
                if (!s.popped) s.first = cycle;
                if (++s.popped == s.words) s.last = cycle;
            }
            has_moved |= s.pushes || s.pops;
        }
        watch();
        for (Stream& s : streams) {
            s.fifo.step(s.pushes ? s.from.data : nullptr, *s.to.ready);
            if (s.pops) s.shows = false;
            if (s.fifo.held() > s.peak) s.peak = s.fifo.held();
        }
        for (auto& layer : layers)
            if (layer->module) edge(*layer);
        cycle++;
        return has_moved;
    }

  private:
    // Whether the reader of a stream could go on with a word; some are ready for one only when it is there: those sleep.
    bool lacks(const Stream& s) const { return !*s.to.valid && (*s.to.ready || layers[s.target]->is_asleep); }
    static bool follows_within(const Layer& layer) { return !layer.module->is_registered || !layer.pins.clk_before; }
    static void touch(Layer& layer) {
        layer.is_touched = true;
        layer.is_asleep = false;
    }
    static void set(uint8_t* pin, uint8_t value, Layer& layer) {
        if (*pin == value) return;
        *pin = value;
        touch(layer);
    }
    void drive(Stream& s) {
        const bool is_valid = s.fifo.valid();
        set(s.to.valid, is_valid, *layers[s.target]);
        if (is_valid && !s.shows) {
            memcpy(s.to.data, s.fifo.front(), s.bytes);
            s.shows = true;
            touch(*layers[s.target]);
        }
        set(s.from.ready, s.fifo.ready(), *layers[s.source]);
    }
    void edge(Layer& layer) {
        if (layer.is_asleep) return;
        if (layer.pins.clk_before) *layer.pins.clk_before = 0;
        *layer.pins.clk = 1;
        layer.module->eval(layer.instance);
        layer.quiet = layer.is_touched || is_careful ? 0 : layer.quiet + 1;
        layer.is_touched = false;
        if (layer.quiet == layer.patience) {
            layer.snapshot.assign(layer.pins.state, layer.pins.state + layer.pins.state_bytes);
        } else if (layer.quiet > layer.patience) {
            layer.quiet = 0;
            layer.is_asleep = !memcmp(layer.snapshot.data(), layer.pins.state, layer.pins.state_bytes);
            layer.patience = layer.is_asleep ? MIN_PATIENCE : std::min(2 * layer.patience, MAX_PATIENCE);
        }
    }

    // Say of each layer what it does in this cycle.
    void watch() {
        const size_t at = cycle / bucket;
        for (auto& layer : layers) {
            bool has_moved = false, wants = false;
            Activity activity = BUSY;
            for (int i : layer->out) {
                has_moved |= streams[i].pushes;
                if (*streams[i].from.valid && !*streams[i].from.ready) activity = STALLS;
            }
            for (int i : layer->in) {
                has_moved |= streams[i].pops;
                wants |= lacks(streams[i]);
            }
            if (activity == BUSY && !has_moved && wants) activity = WAITS;
            layer->cycles[activity]++;
            if (layer->timeline.size() <= at * NUM_ACTIVITIES) layer->timeline.resize((at + 1) * NUM_ACTIVITIES);
            layer->timeline[at * NUM_ACTIVITIES + activity]++;
        }
        if (at + 1 == MAX_BUCKETS && (cycle + 1) % bucket == 0) widen();
    }
    void widen() {
        for (auto& layer : layers) {
            auto& line = layer->timeline;
            for (size_t i = 0; i < line.size() / 2 / NUM_ACTIVITIES; i++)
                for (int k = 0; k < NUM_ACTIVITIES; k++)
                    line[i * NUM_ACTIVITIES + k] = line[2 * i * NUM_ACTIVITIES + k] + line[(2 * i + 1) * NUM_ACTIVITIES + k];
            line.resize(line.size() / 2 / NUM_ACTIVITIES * NUM_ACTIVITIES);
        }
        bucket *= 2;
    }
};

}  // namespace nash
