// Waveforms of all streams as an FST file, a unit of time a cycle: what the reader of each FIFO sees (valid, ready, data),
// how many words wait in it, and whether its writer finds room.
#pragma once
#include "accelerator.h"
#include "fstcpp/fstcpp_variable_info.cpp"
#include "fstcpp/fstcpp_writer.cpp"

namespace nash {

class Trace {
  public:
    Trace(const std::string& path, const Accelerator& accelerator) : writer_(fst::string_view_pair(path)) {
        writer_.setWriter("nash-hw");
        writer_.setDate("Thu Jan  1 00:00:00 1970\n");  // the same file for the same run
        writer_.setTimecale(-9);
        scope("accelerator");
        for (const Stream& s : accelerator.streams) {
            const Layer &source = *accelerator.layers[s.source], &target = *accelerator.layers[s.target];
            scope(source.name + "_" + std::to_string(s.source_port) + "_to_" + target.name);
            Signals signals;
            for (auto& handle : signals.flags) handle = variable(1, FLAGS[&handle - signals.flags]);
            signals.fill = variable(32, "fill");
            signals.data = variable(8 * s.bytes, "data");
            signals.word.assign((s.bytes + 7) / 8, ~0ull);
            signals_.push_back(signals);
            writer_.upscope();
        }
        writer_.upscope();
    }

    void sample(const Accelerator& accelerator) {
        writer_.emitTimeChange(accelerator.cycle);
        for (size_t i = 0; i < signals_.size(); i++) {
            const Stream& s = accelerator.streams[i];
            Signals& known = signals_[i];
            const uint8_t flags[NUM_FLAGS] = {*s.to.valid, *s.to.ready, *s.from.valid, *s.from.ready};
            for (int k = 0; k < NUM_FLAGS; k++)
                if (flags[k] != known.values[k]) writer_.emitValueChange(known.flags[k], uint64_t(known.values[k] = flags[k]));
            if (s.fifo.held() != known.held) writer_.emitValueChange(known.fill, uint64_t(known.held = s.fifo.held()));
            if (!*s.to.valid) continue;
            std::vector<uint64_t> word(known.word.size(), 0);
            memcpy(word.data(), s.to.data, s.bytes);
            if (word == known.word) continue;
            known.word = word;
            writer_.emitValueChange(known.data, known.word.data());
        }
    }

  private:
    static constexpr int NUM_FLAGS = 4;
    static constexpr const char* FLAGS[NUM_FLAGS] = {"valid", "ready", "in_valid", "in_ready"};
    struct Signals {
        fst::Handle flags[NUM_FLAGS], fill, data;
        uint8_t values[NUM_FLAGS] = {2, 2, 2, 2};  // not seen yet
        unsigned held = ~0u;
        std::vector<uint64_t> word;
    };

    void scope(const std::string& name) {
        writer_.setScope(fst::Hierarchy::ScopeType::VCD_MODULE, name, std::string{});
    }
    fst::Handle variable(uint32_t bits, const char* name) {
        return writer_.createVar(fst::Hierarchy::VarType::VCD_WIRE, fst::Hierarchy::VarDirection::IMPLICIT, bits, name, 0);
    }

    fst::Writer writer_;
    std::vector<Signals> signals_;
};

}  // namespace nash
