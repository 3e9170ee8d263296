// Makes a Verilated layer what module.h says. MODEL, SYMS, CLK_BEFORE and the lists of ports come from the generator.
struct Instance {
    Instance(VerilatedContext* context, const char* name) : model(context, name) {}
    MODEL model;
};

static void* make(VerilatedContext* context, const char* name, nash::Pins* pins) {
    auto* instance = new Instance(context, name);
    MODEL& m = instance->model;
    pins->clk = &m.ap_clk;
    pins->rst_n = &m.ap_rst_n;
    pins->clk_before = CLK_BEFORE;
    pins->state = reinterpret_cast<uint8_t*>(m.rootp->vlSymsp);
    pins->state_bytes = sizeof(SYMS);
#define IN(i) pins->in[i] = {&m.in##i##_V_TVALID, &m.in##i##_V_TREADY, reinterpret_cast<uint8_t*>(&m.in##i##_V_TDATA)};
#define OUT(i) pins->out[i] = {&m.out##i##_V_TVALID, &m.out##i##_V_TREADY, reinterpret_cast<uint8_t*>(&m.out##i##_V_TDATA)};
    PORTS
#undef IN
#undef OUT
    return instance;
}

static void eval(void* instance) { static_cast<Instance*>(instance)->model.eval_step(); }

static void drop(void* instance) {
    static_cast<Instance*>(instance)->model.final();
    delete static_cast<Instance*>(instance);
}

extern "C" const nash::Module nash_module;
const nash::Module nash_module = {NUM_IN, NUM_OUT, IS_REGISTERED, make, eval, drop};
