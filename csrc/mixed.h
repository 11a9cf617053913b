/* Steps over float32 beside bfloat16, such as a bfloat16 gradient, or copy, of float32 parameters: for one instruction set,
 * included by stamp.h. Any kernel is called for CHUNK after CHUNK. What tiles do for every storage takes longer, so that
 * memory waits for the processor. */
#if DTYPE == 32
TARGET static void STAMPED(step_mixed)(kernel_loop *kernel, int streams, void *const *numbers, void *const *codes,
                                       const void *k, int64_t count)
{
    _Alignas(LINE) real rows[FASTOPT_MAX_STREAMS][CHUNK + LINE / sizeof(real)];
    void *buffers[FASTOPT_MAX_STREAMS];
    for (int64_t start = 0; start < count; start += CHUNK) {
        for (int stream = 0; stream < streams; stream++) {
            buffers[stream] = codes[stream] ? (void *)rows[stream] : (void *)((real *)numbers[stream] + start);
            if (codes[stream])
                STAMPED(decode_bfloat16_body)(&codes[stream], start, CHUNK, rows[stream]);
        }
        kernel(buffers, k, 0, CHUNK);
        for (int stream = 0; stream < streams; stream++)
            if (codes[stream] && stream != 1) /* the gradient */
                STAMPED(encode_bfloat16_body)(rows[stream], CHUNK, &codes[stream], start, NULL, 0);
        if (codes[streams])
            STAMPED(encode_bfloat16_body)((real *)buffers[0], CHUNK, &codes[streams], start, NULL, 0);
    }
}
#endif
